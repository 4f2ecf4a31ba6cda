//! The local certificate authority: made once, at the guard's first start; its certificate is what clients trust.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Error;

/// The CA certificate, in `state_dir/tls`: the file that clients are told to trust.
pub const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca.key";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_LIFE: Duration = DAY.saturating_mul(3650);
/// Browsers and Apple's stack refuse server certificates that live longer than 398 days.
const LEAF_LIFE: Duration = DAY.saturating_mul(397);
/// Clocks of clients may be behind ours by this much.
const BACKDATED: Duration = DAY;

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Opens the CA in `dir`, or makes it there. The key's file is readable by the guard's user alone.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let (certificate, key) = (dir.join(CA_FILE), dir.join(CA_KEY_FILE));
        if !key.exists() {
            make(dir)?;
        }
        let unreadable = |source| Error::File { action: "look at", path: key.clone(), source };
        if fs::metadata(&key).map_err(unreadable)?.permissions().mode() & 0o077 != 0 {
            return Err(Error::Exposed(key));
        }
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| Error::File {
                action: "read",
                path: path.to_owned(),
                source,
            })
        };
        let pair = KeyPair::from_pem(&read(&key)?)
            .map_err(|_no_key| Error::Pem { path: key.clone(), what: "private key" })?;
        let issuer = Issuer::from_ca_cert_pem(&read(&certificate)?, pair)
            .map_err(|_no_certificate| Error::Pem { path: certificate.clone(), what: "certificate" })?;
        Ok(Self { issuer })
    }

    /// A fresh key and certificate for `names`. Nothing of it is stored: the next start makes another.
    pub(super) fn issue(
        &self,
        names: Vec<String>,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        let mut params = CertificateParams::new(names)?;
        live(&mut params, LEAF_LIFE);
        params.distinguished_name.push(DnType::CommonName, "mcp-guard");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into())))
    }
}

fn make(dir: &Path) -> Result<(), Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    live(&mut params, CA_LIFE);
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    params.distinguished_name.push(DnType::CommonName, format!("mcp-guard local CA {host}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;

    let file = |action, name: &str, source| Error::File { action, path: dir.join(name), source };
    fs::create_dir_all(dir).map_err(|source| file("create", "", source))?;
    // The key comes last: its presence says that the pair is complete.
    store(&dir.join(CA_FILE), 0o644, &certificate.pem()).map_err(|source| file("write", CA_FILE, source))?;
    store(&dir.join(CA_KEY_FILE), 0o600, &key.serialize_pem())
        .map_err(|source| file("write", CA_KEY_FILE, source))
}

/// Whole or not at all, also across a power cut.
fn store(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let half = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&half)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&half, path)
}

fn live(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + life).into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path()).unwrap();
        let first = fs::read(dir.path().join(CA_FILE)).unwrap();
        Authority::open(dir.path()).unwrap().issue(vec!["localhost".into()]).unwrap();
        assert_eq!(fs::read(dir.path().join(CA_FILE)).unwrap(), first);
        let mode = fs::metadata(dir.path().join(CA_KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path()).unwrap();
        let key = dir.path().join(CA_KEY_FILE);
        for mode in [0o640, 0o604, 0o622] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            let refused = Authority::open(dir.path()).err().map(|error| error.to_string());
            assert!(refused.is_some_and(|words| words.contains("chmod 600")), "{mode:o}");
        }
    }

    #[test]
    fn a_certificate_without_its_key_is_made_anew_not_half_used() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CA_FILE), "left by a crash").unwrap();
        Authority::open(dir.path()).unwrap();
        assert!(fs::read_to_string(dir.path().join(CA_FILE)).unwrap().contains("BEGIN CERTIFICATE"));
    }
}
