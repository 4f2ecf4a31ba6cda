//! What certificates name, and whom the guard believes them of.

use std::fs;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls_pki_types::UnixTime;
use tempfile::TempDir;

use super::*;
use crate::config;

const ID: &str = "spiffe://corp.example/agent/billing";
const HOUR: Duration = Duration::from_secs(3600);

/// Makes certificates for clients, and the files of `guard.yaml`.
struct Ca {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn ca() -> Ca {
    ca_until("Corp clients", SystemTime::now() + 1000 * HOUR)
}

fn ca_until(name: &str, end: SystemTime) -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = ((end - 2000 * HOUR).into(), end.into());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pem = params.self_signed(&key).unwrap().pem();
    Ca { dir: tempfile::tempdir().unwrap(), issuer: Issuer::new(params, key), pem }
}

/// `CN=billing,O=Corp`, with these URIs.
fn params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Corp");
    params.distinguished_name.push(DnType::CommonName, "billing");
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from(7));
    params
}

impl Ca {
    fn certificate(&self, params: &CertificateParams) -> Certificate {
        let signed = params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap();
        Certificate::of_chain(vec![signed.der().clone()]).unwrap()
    }

    fn tls(&self, authorities: &str, revoked: Option<(&[u64], SystemTime)>) -> config::Tls {
        let file = |name: &str, text: &str| {
            let file = self.dir.path().join(name);
            fs::write(&file, text).unwrap();
            file
        };
        config::Tls {
            client_ca: vec![file("clients.pem", authorities)],
            client_crl: revoked
                .map(|(serials, next)| file("crl.pem", &self.list(serials, next)))
                .into_iter()
                .collect(),
            ..config::Tls::default()
        }
    }

    fn list(&self, serials: &[u64], next: SystemTime) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: SystemTime::now().into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: (SystemTime::now() - 2 * HOUR).into(),
            next_update: next.into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn clients(&self, revoked: Option<(&[u64], SystemTime)>) -> Clients {
        Clients::load(&self.tls(&self.pem, revoked), &self.dir.path().join("own.pem")).unwrap()
    }
}

fn names(params: &CertificateParams) -> Result<Vec<String>, CertificateFault> {
    let certificate = ca().certificate(params);
    certificate.names().map(|names| names.iter().map(ToString::to_string).collect())
}

#[test]
fn a_certificate_names_its_holder_by_id_subject_and_dns() {
    let mut params = params(&[ID]);
    for name in ["Billing.Corp.Example", "*.corp.example", "-a.example"] {
        params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
    }
    let expected = [ID, "subject CN=billing,O=Corp", "dns billing.corp.example"].map(str::to_owned);
    assert_eq!(names(&params), Ok(expected.to_vec()), "patterns name nobody");
}

#[test]
fn a_spiffe_id_is_the_only_uri() {
    let malformed = |params: &CertificateParams| matches!(names(params), Err(CertificateFault::Malformed(_)));
    for uris in [
        [ID, "spiffe://corp.example/agent/other"],
        ["spiffe://corp.example/agent/other", ID],
        [ID, ID],
        [ID, "https://corp.example/"],
        ["https://corp.example/", ID],
    ] {
        assert!(malformed(&params(&uris)), "{uris:?}");
    }
    for uri in
        ["SPIFFE://corp.example/a", "spiffe://corp.example", "spiffe:corp", "spiffe://corp.example/a/../b"]
    {
        assert!(malformed(&params(&[uri])), "{uri}");
    }
    let other = names(&params(&["https://corp.example/a", "urn:b"])).unwrap();
    assert_eq!(other, ["subject CN=billing,O=Corp"]);
}

#[test]
fn a_key_that_is_for_certificates_is_no_clients() {
    for usages in [
        vec![KeyUsagePurpose::KeyEncipherment],
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign],
    ] {
        let mut params = params(&[ID]);
        params.key_usages = usages;
        assert!(matches!(names(&params), Err(CertificateFault::Malformed(_))));
    }
}

#[test]
fn what_cannot_be_read_is_good_at_no_time() {
    let garbage = Certificate::of_chain(vec![vec![0x30, 0x03, 1, 1, 1].into()]).unwrap();
    assert!(matches!(garbage.names(), Err(CertificateFault::Malformed(_))));
    assert_eq!(ca().clients(None).check(&garbage, Timestamp::now()), Err(CertificateFault::Expired));
    assert!(Certificate::of_chain(Vec::new()).is_none());
}

#[test]
fn a_certificate_is_good_as_long_as_its_ca_vouches_for_it() {
    let (corp, other) = (ca(), ca());
    let certificate = corp.certificate(&params(&[ID]));
    let now = Timestamp::now();
    let clients = corp.clients(None);
    assert_eq!(clients.check(&certificate, now), Ok(()));
    assert_eq!(clients.check(&certificate, now), Ok(()), "and once more, from what is known");
    assert_eq!(other.clients(None).check(&certificate, now), Err(CertificateFault::Untrusted));
    assert_eq!(Clients::default().check(&certificate, now), Err(CertificateFault::Untrusted));
    assert_eq!(clients.check(&certificate, now), Ok(()));
}

#[test]
fn a_certificate_is_good_in_its_time_only() {
    let corp = ca();
    let (now, clients) = (SystemTime::now(), corp.clients(None));
    let within = |from: SystemTime, to: SystemTime| {
        let mut params = params(&[ID]);
        (params.not_before, params.not_after) = (from.into(), to.into());
        clients.check(&corp.certificate(&params), Timestamp::now())
    };
    assert_eq!(within(now - HOUR, now + HOUR), Ok(()));
    assert_eq!(within(now - 2 * HOUR, now - HOUR), Err(CertificateFault::Expired));
    assert_eq!(within(now + HOUR, now + 2 * HOUR), Err(CertificateFault::Untrusted), "not yet");
    let mut short = params(&[ID]);
    short.not_after = (now + HOUR).into();
    let short = corp.certificate(&short);
    assert_eq!(clients.check(&short, Timestamp::now()), Ok(()));
    let later = Timestamp::now() + jiff::SignedDuration::from_hours(1);
    assert_eq!(
        clients.check(&short, later),
        Err(CertificateFault::Expired),
        "once good is not good for ever"
    );
}

#[test]
fn what_is_for_servers_or_for_anything_is_not_for_clients() {
    let corp = ca();
    let clients = corp.clients(None);
    for usages in [vec![ExtendedKeyUsagePurpose::ServerAuth], vec![ExtendedKeyUsagePurpose::Any], Vec::new()]
    {
        let mut params = params(&[ID]);
        params.extended_key_usages.clone_from(&usages);
        let found = clients.check(&corp.certificate(&params), Timestamp::now());
        assert_eq!(found, Err(CertificateFault::Untrusted), "{usages:?}");
    }
}

#[test]
fn a_revoked_certificate_and_a_list_that_is_out_of_date_prove_nothing() {
    let corp = ca();
    let certificate = corp.certificate(&params(&[ID]));
    let (now, soon) = (Timestamp::now(), SystemTime::now() + HOUR);
    let clients = corp.clients(Some((&[8], soon)));
    assert_eq!(clients.check(&certificate, now), Ok(()));
    assert!(clients.expires(&certificate) <= now + jiff::SignedDuration::from_hours(1));
    let later = now + jiff::SignedDuration::from_hours(2);
    assert_eq!(
        clients.check(&certificate, later),
        Err(CertificateFault::Untrusted),
        "who knows what is revoked by then"
    );
    assert_eq!(
        corp.clients(Some((&[8, 7], soon))).check(&certificate, now),
        Err(CertificateFault::Untrusted)
    );
    let late = corp.clients(Some((&[], SystemTime::now() - HOUR)));
    assert_eq!(late.check(&certificate, now), Err(CertificateFault::Untrusted));
    assert!(late.notes().iter().any(|note| note.contains("out of date")), "{:?}", late.notes());
}

#[test]
fn a_second_list_of_one_ca_is_refused_and_hides_no_revocation() {
    let corp = ca();
    let own = corp.dir.path().join("own.pem");
    let soon = SystemTime::now() + HOUR;
    // What is revoked stands in the newer one only.
    let mut tls = corp.tls(&corp.pem, Some((&[8], soon)));
    let newer = corp.dir.path().join("newer.pem");
    fs::write(&newer, corp.list(&[8, 7], soon)).unwrap();
    tls.client_crl.push(newer.clone());
    let told = Clients::load(&tls, &own).unwrap_err().to_string();
    assert!(told.contains("newer.pem") && told.contains("a second list of the CA CN=Corp clients"), "{told}");
    // In one file, too.
    fs::write(&newer, format!("{}{}", corp.list(&[8], soon), corp.list(&[8, 7], soon))).unwrap();
    tls.client_crl = vec![newer];
    assert!(Clients::load(&tls, &own).unwrap_err().to_string().contains("a second list"));
    // Each CA has its own.
    let other = ca_until("Other clients", SystemTime::now() + 100 * HOUR);
    let both = format!("{}{}", corp.pem, other.pem);
    let mut tls = corp.tls(&both, Some((&[7], soon)));
    let others = corp.dir.path().join("others.pem");
    fs::write(&others, other.list(&[], soon)).unwrap();
    tls.client_crl.push(others);
    let clients = Clients::load(&tls, &own).unwrap();
    let now = Timestamp::now();
    assert_eq!(clients.check(&corp.certificate(&params(&[ID])), now), Err(CertificateFault::Untrusted));
    assert_eq!(clients.check(&other.certificate(&params(&[ID])), now), Ok(()));
}

#[test]
fn a_ca_vouches_for_nobody_after_its_own_end() {
    let gone = ca_until("Old clients", SystemTime::now() - HOUR);
    let own = gone.dir.path().join("own.pem");
    let told = Clients::load(&gone.tls(&gone.pem, None), &own).unwrap_err().to_string();
    assert!(told.contains("clients.pem") && told.contains("no CA of client_ca is valid now"), "{told}");

    let soon = ca_until("Next clients", SystemTime::now() + HOUR);
    let corp = ca();
    let all = format!("{}{}{}", gone.pem, soon.pem, corp.pem);
    let clients = Clients::load(&corp.tls(&all, None), &own).unwrap();
    let noted = clients.notes().iter().filter(|note| note.contains("CN=Old clients is not valid now"));
    assert_eq!(noted.count(), 1, "{:?}", clients.notes());
    let now = Timestamp::now();
    let certificate = |ca: &Ca| ca.certificate(&params(&[ID]));
    assert_eq!(clients.check(&certificate(&gone), now), Err(CertificateFault::Untrusted));

    // The certificate itself is good for longer than its CA.
    let (bound, free) = (certificate(&soon), certificate(&corp));
    let later = now + jiff::SignedDuration::from_hours(2);
    assert_eq!((clients.check(&bound, now), clients.check(&free, now)), (Ok(()), Ok(())));
    assert_eq!(clients.check(&bound, later), Err(CertificateFault::Untrusted), "once good is not for ever");
    assert_eq!(clients.check(&free, later), Ok(()), "of another CA");
    assert!(clients.expires(&bound) < later && later < clients.expires(&free));
    // Nor does a handshake take it.
    let shakes = |certificate: &Certificate, at: Timestamp| {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().try_into().unwrap()));
        clients.verifier().unwrap().verify_client_cert(&certificate.chain[0], &[], at).is_ok()
    };
    assert!(shakes(&bound, now) && !shakes(&bound, later) && shakes(&free, later));
}

#[test]
fn files_that_are_not_sound_are_not_loaded() {
    use std::os::unix::fs::PermissionsExt;
    let corp = ca();
    let own = corp.dir.path().join("own.pem");
    let said =
        |tls: &config::Tls| Clients::load(tls, &own).map(|_| ()).map_err(|problems| problems.to_string());
    let leaf = params(&[ID]).signed_by(&KeyPair::generate().unwrap(), &corp.issuer).unwrap().pem();
    for (text, words) in [
        ("", "it holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
        (&leaf, "is not the certificate of a CA"),
    ] {
        let told = said(&corp.tls(text, None)).unwrap_err();
        assert!(told.contains("clients.pem") && told.contains(words), "{told}");
    }
    let both = format!("{}{}", corp.pem, ca().pem);
    assert_eq!(said(&corp.tls(&both, None)), Ok(()), "several in one file");
    fs::write(&own, &corp.pem).unwrap();
    let told = said(&corp.tls(&both, None)).unwrap_err();
    assert!(told.contains("the guard's own CA"), "{told}");
    fs::remove_file(&own).unwrap();
    let mut tls = corp.tls(&corp.pem, None);
    fs::set_permissions(&tls.client_ca[0], fs::Permissions::from_mode(0o666)).unwrap();
    assert!(said(&tls).unwrap_err().contains("chmod 600"));
    fs::set_permissions(&tls.client_ca[0], fs::Permissions::from_mode(0o644)).unwrap();
    tls.client_crl = vec![tls.client_ca[0].clone(), corp.dir.path().join("none.pem")];
    let told = said(&tls).unwrap_err();
    assert!(told.contains("it holds no list") && told.contains("none.pem"), "both at once: {told}");
}
