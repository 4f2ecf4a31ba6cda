//! Asks for the addresses of names as this host's programs do: its hosts file first, then the resolvers of `resolv.conf`.

use std::time::Duration;

use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::task::JoinSet;

use super::names::{ADDRESSES_MAX, Family, Found, Question, Source};

/// Questions under way at the same time.
const AT_ONCE_MAX: usize = 16;
/// How long one question may take, with all attempts, resolvers and search domains.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names in a chain of aliases.
const CHAIN_MAX: usize = 16;
/// How long an answer of the hosts file holds, which has no such number.
const HOSTS_TTL: Duration = Duration::from_secs(30);

/// Asks all, and gives each its answer. Both files are read anew, since they may have changed.
pub(super) async fn ask(questions: Vec<Question>) -> Vec<(Question, Found)> {
    let files = tokio::task::spawn_blocking(|| (Hosts::from_system(), resolver())).await;
    let Ok((hosts, resolver)) = files else { return Vec::new() };
    let hosts = hosts.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the hosts file");
        Hosts::default()
    });
    let mut questions = questions.into_iter();
    let (mut under_way, mut answers) = (JoinSet::new(), Vec::new());
    loop {
        while under_way.len() < AT_ONCE_MAX
            && let Some(question) = questions.next()
        {
            match (by_host(&hosts, &question), &resolver) {
                (Some(found), _) => answers.push((question, found)),
                (None, Err(error)) => answers.push((question, Found::Nothing(error.to_string()))),
                (None, Ok(resolver)) => {
                    let resolver = resolver.clone();
                    under_way.spawn(async move {
                        let found = by_dns(&resolver, &question).await;
                        (question, found)
                    });
                }
            }
        }
        match under_way.join_next().await {
            Some(answer) => answers.extend(answer),
            None => return answers,
        }
    }
}

fn resolver() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    // What its answers say counts; nothing is remembered beside.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    builder.build()
}

fn record_type(family: Family) -> RecordType {
    match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    }
}

/// What this host itself says of a name. One that it knows in one family has nothing in the other, as everywhere.
fn by_host(hosts: &Hosts, (name, family): &Question) -> Option<Found> {
    let query = |family| Some(Query::query(Name::from_ascii(name).ok()?, record_type(family)));
    let of = |family| hosts.lookup_static_host(&query(family)?);
    let mine = of(*family);
    let other = of(match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    });
    let addresses = match (mine, other) {
        (Some(lookup), _) => lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect(),
        (None, Some(_)) => Vec::new(),
        (None, None) if name == "localhost" => vec![match family {
            Family::V4 => std::net::Ipv4Addr::LOCALHOST.into(),
            Family::V6 => std::net::Ipv6Addr::LOCALHOST.into(),
        }],
        (None, None) => return None,
    };
    Some(Found::Addresses { addresses, ttl: HOSTS_TTL, source: Source::Host })
}

async fn by_dns(resolver: &TokioResolver, (name, family): &Question) -> Found {
    let Ok(query) = Name::from_ascii(name) else { return Found::Nothing("it is no name for DNS".to_owned()) };
    let none = |ttl: Option<u32>| Found::Addresses {
        addresses: Vec::new(),
        ttl: Duration::from_secs(ttl.unwrap_or_default().into()),
        source: Source::Dns,
    };
    match tokio::time::timeout(PATIENCE, resolver.lookup(query, record_type(*family))).await {
        Err(_) => Found::Nothing(format!("no answer in {} s", PATIENCE.as_secs())),
        Ok(Ok(lookup)) => addresses(&lookup, *family),
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(no)))) => match no.response_code {
            // The name exists and has nothing of this family.
            ResponseCode::NoError => none(no.negative_ttl),
            ResponseCode::NXDomain => Found::Nothing("there is no such name".to_owned()),
            code => Found::Nothing(format!("the resolver says {code}")),
        },
        Ok(Err(error)) => Found::Nothing(error.to_string()),
    }
}

/// The addresses at the end of the answer's chain of names, and the least time that a link of it holds. Records of
/// other names mean nothing.
fn addresses(lookup: &hickory_resolver::lookup::Lookup, family: Family) -> Found {
    let mut chain = vec![lookup.query().name()];
    let mut ttl = u32::MAX;
    for record in lookup.answers() {
        if let RData::CNAME(target) = &record.data
            && chain.len() < CHAIN_MAX
            && chain.contains(&&record.name)
        {
            chain.push(&target.0);
            ttl = ttl.min(record.ttl);
        }
    }
    let mut addresses = Vec::new();
    for record in lookup.answers() {
        if record.record_type() == record_type(family)
            && chain.contains(&&record.name)
            && let Some(ip) = record.data.ip_addr()
            // One more than are held, so that it is known that there are more.
            && addresses.len() <= ADDRESSES_MAX
        {
            addresses.push(ip);
            ttl = ttl.min(record.ttl);
        }
    }
    Found::Addresses { addresses, ttl: Duration::from_secs(ttl.into()), source: Source::Dns }
}
