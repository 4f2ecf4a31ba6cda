//! One version of everything that judges a call: policy, credentials and the keys of tokens, loaded together and swapped
//! together.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

use crate::config::{Config, Problems};
use crate::identity::{
    Addressed, Caller, Certificate, Clients, Credentials, Fresh, Issuers, KeySet, Proof, Shown, Unidentified,
};
use crate::policy::{Policy, Shadows};
use crate::tls::CA_FILE;
use crate::types::{IssuerName, Uptime};

/// An immutable version. A request is decided by one; what comes later on its answer's stream is read by the one in force
/// then.
pub struct Rules {
    pub policy: Arc<Policy>,
    pub credentials: Arc<Credentials>,
    pub issuers: Issuers,
    /// What tokens are for that are for one of the servers, where the guard is its resource server.
    resources: Arc<[String]>,
    /// Who vouches for client certificates.
    pub clients: Arc<Clients>,
    /// What its rules in shadow would have refused.
    pub shadows: Arc<Shadows>,
    /// The policy's digest, as each record names it.
    pub digest: String,
}

/// What is beside the policy, each as SHA-256 in hex; `None`: there is none of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Digests {
    /// Of the file. It holds hashes of secrets of 256 random bits, so that nobody gets one by trying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// Of the certificates (DER), one after the other, in the order of `guard.yaml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<String>,
    /// The same of lists of what is revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_crl: Option<String>,
    /// Of the issuers' keys that come from files; those that are asked for have records of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_keys: Option<String>,
    /// Of the guard's own certificate (DER).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

impl Rules {
    /// Reads the policy directory and the keys whole, or says everything that is wrong with them.
    pub fn load(config: &Config) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let policy = Policy::load(&config.policy_dir, &config.servers);
        let policy = policy.map_err(|found| problems.append(found)).ok();
        let credentials = Credentials::load(&config.policy_dir);
        let credentials = credentials.map_err(|found| problems.append(found)).ok();
        let issuers = Issuers::load(&config.issuers).map_err(|found| problems.append(found)).ok();
        let own_ca = config.tls_dir().join(CA_FILE);
        let clients = Clients::load(&config.tls, &own_ca).map_err(|found| problems.append(found)).ok();
        if let Some(policy) = &policy {
            problems.append(policy.check_issuers(&config.issuers));
            problems.append(policy.check_client_ca(!config.tls.client_ca.is_empty()));
        }
        match (policy, credentials, issuers, clients) {
            (Some(policy), Some(credentials), Some(issuers), Some(clients)) => {
                let digest = policy.digest().to_string();
                let (policy, credentials, clients) = (policy.into(), credentials.into(), clients.into());
                let resources = config.servers.iter().filter_map(|server| server.authorize.as_ref());
                let resources = resources.map(|authorize| authorize.resource.to_string()).collect();
                let shadows = Arc::default();
                problems.or(Self { policy, credentials, issuers, resources, clients, shadows, digest })
            }
            _ => Err(problems),
        }
    }

    /// The same rules with other keys of one issuer that was asked for them.
    #[must_use]
    pub fn with_keys(&self, issuer: &IssuerName, keys: Option<&KeySet>) -> Self {
        Self {
            policy: Arc::clone(&self.policy),
            credentials: Arc::clone(&self.credentials),
            issuers: self.issuers.with_keys(issuer, keys),
            resources: Arc::clone(&self.resources),
            clients: Arc::clone(&self.clients),
            shadows: Arc::clone(&self.shadows),
            digest: self.digest.clone(),
        }
    }

    /// What judges calls beside the policy. `certificate`: of the guard's own.
    pub fn digests(&self, certificate: &str) -> Digests {
        let [client_ca, client_crl] = self.clients.digests().map(|digest| digest.map(str::to_owned));
        Digests {
            credentials: self.credentials.digest().map(str::to_owned),
            client_ca,
            client_crl,
            issuer_keys: self.issuers.digest(),
            certificate: Some(certificate.to_owned()),
        }
    }

    /// Whether these show a token that is for the guard or for one of its servers: no server gets it.
    pub fn has_token(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(AUTHORIZATION).iter();
        !self.issuers.is_empty()
            && values.into_iter().any(|value| self.issuers.concerns(value.as_bytes(), &self.resources))
    }

    /// Which agent's secret was `shown`: it is known, and the policy still has the agent with that client and profile.
    pub fn by_secret(&self, shown: &Shown<'_>) -> Result<Caller, Unidentified> {
        let caller = shown.by_secret(&self.credentials, Timestamp::now(), |agent, client, profile| {
            self.policy.has_entry(agent, client, profile)
        })?;
        if self.policy.needs_secret(caller.agent()) { Ok(caller) } else { Err(Unidentified::SecretNotNeeded) }
    }

    /// Which agent's token was `shown`: it is good `now`, and the policy has an agent with its subject.
    pub fn by_token(&self, shown: &Shown<'_>, token: &Addressed<'_>) -> Result<Caller, Unidentified> {
        let voucher = token.verify(Timestamp::now(), Uptime::now())?;
        let entry = self.policy.by_subject(&voucher.issuer, &voucher.subject);
        shown.by_token(voucher, entry)
    }

    /// Which agent's `certificate` it is, where an entry has it; `None`: none has. Nothing else was shown.
    pub fn by_certificate(
        &self,
        shown: &Shown<'_>,
        certificate: &Arc<Certificate>,
    ) -> Option<Result<Caller, Unidentified>> {
        let named = match certificate.names() {
            Ok(names) => self.policy.by_certificate(names),
            Err(fault) => return Some(Err(fault.into())),
        };
        if named.is_empty() {
            return None;
        }
        if let Err(fault) = self.clients.check(certificate, Timestamp::now()) {
            return Some(Err(fault.into()));
        }
        let alone = named.iter().filter(|(_, needs)| !needs.authorization()).map(|(entry, _)| *entry);
        if alone.clone().next().is_none() {
            return Some(Err(Unidentified::NoCredential));
        }
        Some(shown.by_certificate(alone, certificate))
    }

    /// Whether `caller`, whom another version let in, would still be let in by what it showed: its entry is there and needs
    /// no more than that, and so is its credential, or the key that signed its token. Its process is another question.
    pub fn still_know(&self, caller: &Caller) -> bool {
        let agent = caller.agent();
        let proves = match caller.proof() {
            Proof::Secret { credential, .. } => {
                self.policy.needs_secret(agent) && self.credentials.have(credential, caller)
            }
            Proof::Token(voucher) => {
                let entry = self.policy.by_subject(&voucher.issuer, &voucher.subject);
                self.issuers.trust(voucher, Uptime::now()) && entry.is_some_and(|entry| entry.agent == agent)
            }
            Proof::Certificate(_) => {
                let entry = self.policy.agent(agent);
                entry.is_some_and(|entry| !entry.needs.authorization() && entry.needs.certificate().is_some())
            }
            Proof::Process => self.policy.known_by_process().any(|known| known.entry.agent == agent),
        };
        proves
            && self.still_certify(caller)
            && self.policy.has_entry(agent, caller.client(), caller.profile())
    }

    /// Whether the certificate that it showed, if its entry needs one, is still that of its entry and vouched for.
    fn still_certify(&self, caller: &Caller) -> bool {
        let entry = self.policy.agent(caller.agent());
        let Some(needed) = entry.and_then(|entry| entry.needs.certificate()) else { return true };
        caller.certificate().is_some_and(|shown| {
            shown.names().is_ok_and(|names| names.contains(needed))
                && self.clients.check(shown, Timestamp::now()).is_ok()
        })
    }

    /// How long the keys are good by which `caller` is known, where they come over the network.
    pub fn fresh(&self, caller: &Caller) -> Option<&Fresh> {
        match caller.proof() {
            Proof::Token(voucher) => self.issuers.fresh(&voucher.issuer),
            Proof::Secret { .. } | Proof::Certificate(_) | Proof::Process => None,
        }
    }

    /// From when on what `caller` showed proves nothing; `None`: that is not known beforehand. A rotation gives an end to
    /// what had none.
    pub fn expires(&self, caller: &Caller) -> Option<Timestamp> {
        let proof = match caller.proof() {
            Proof::Secret { credential, .. } => self.credentials.expires(credential),
            Proof::Token(voucher) => Some(voucher.expires),
            Proof::Certificate(_) | Proof::Process => None,
        };
        let certificate = caller.certificate().map(|shown| self.clients.expires(shown));
        proof.into_iter().chain(certificate).min()
    }
}

/// The version that is in force. Cheap to clone; all clones see the same.
#[derive(Clone)]
pub struct InForce(Arc<watch::Sender<Arc<Rules>>>);

impl InForce {
    pub fn new(rules: Rules) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(rules))))
    }

    pub fn load(&self) -> Arc<Rules> {
        Arc::clone(&self.0.borrow())
    }

    pub fn replace(&self, rules: Rules) {
        self.0.send_replace(Arc::new(rules));
    }

    /// Each version from now on, the one in force first. The sender lives as long as the guard.
    pub fn versions(&self) -> watch::Receiver<Arc<Rules>> {
        self.0.subscribe()
    }
}
