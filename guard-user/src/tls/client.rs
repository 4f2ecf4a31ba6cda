//! Whom the guard believes when it connects to others over TLS.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::{Problem, others_may_write, read_bounded};

/// Longest file of CAs.
const CA_BYTES_MAX: usize = 64 * 1024;

/// The other side, in words for the operator.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    name: &'static str,
    /// What names the file with the CAs that may speak for it.
    setting: &'static str,
    /// From where that counts.
    from: &'static str,
}

impl Peer {
    /// An issuer of tokens, which is asked for its keys.
    pub const ISSUER: Self =
        Self { name: "the issuer", setting: "ca_file", from: "the directory of guard.yaml" };
    /// A witness, which cosigns checkpoints.
    pub const WITNESS: Self =
        Self { name: "the witness", setting: "ca_file", from: "the directory of guard.yaml" };
    /// What takes exported records.
    pub const RECEIVER: Self =
        Self { name: "the receiver", setting: "--ca-file", from: "the working directory" };

    pub(crate) fn name(self) -> &'static str {
        self.name
    }
}

/// With the CAs of `ca_file` alone, or those of the host. The file is read anew each time: certificates of CAs come and go.
pub fn client_config(ca_file: Option<&Path>, peer: Peer) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(file) => roots = authorities(file, peer).map_err(|problem| problem.to_string())?,
        // Some of a host's certificates may be of no use; the rest is.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        let Peer { name, setting, .. } = peer;
        return Err(format!(
            "no CA is known that could speak for {name}: name one with {setting}, or install ca-certificates"
        ));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// Every certificate of a PEM file, or none. Refused if anybody but root and the guard's own user may write it: whose CA is in it can
/// say that it is the other side.
pub fn authorities(file: &Path, Peer { name, setting, from }: Peer) -> Result<RootCertStore, Problem> {
    let problem = |what: String, hint: String| Problem::of_file(file, what).with_hint(hint);
    let unreadable = |error: std::io::Error| {
        problem(format!("{setting} cannot be read: {error}"), format!("paths count from {from}"))
    };
    let metadata = fs::metadata(file).map_err(unreadable)?;
    if let Some((who, mend)) = others_may_write(&metadata) {
        let what = format!("{who} may write this file, and so say who is {name}");
        return Err(problem(what, format!("run `{mend} {}`", file.display())));
    }
    let text = read_bounded(file, CA_BYTES_MAX).map_err(unreadable)?;
    let unfit = |what: String| {
        problem(
            what,
            format!("{setting} needs the certificates of the CAs that may speak for {name}, in PEM"),
        )
    };
    let mut roots = RootCertStore::empty();
    for (index, certificate) in CertificateDer::pem_slice_iter(&text).enumerate() {
        let numbered = |error: &dyn std::fmt::Display| unfit(format!("certificate {}: {error}", index + 1));
        let certificate = certificate.map_err(|error| numbered(&error))?;
        roots.add(certificate).map_err(|error| numbered(&error))?;
    }
    if roots.is_empty() {
        return Err(unfit("there is no certificate in it".into()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn told(file: &Path, peer: Peer) -> String {
        let told = authorities(file, peer).unwrap_err().to_string();
        assert_eq!(client_config(Some(file), peer).unwrap_err(), told, "one reader for both");
        told
    }

    #[test]
    fn a_file_of_authorities_that_is_not_taken_is_told_with_what_named_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let place = file.display();
        let missing = "cannot be read: No such file or directory (os error 2); paths count from";
        assert_eq!(
            told(&file, Peer::ISSUER),
            format!("{place}: ca_file {missing} the directory of guard.yaml")
        );
        assert_eq!(
            told(&file, Peer::RECEIVER),
            format!("{place}: --ca-file {missing} the working directory")
        );
        fs::write(&file, "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n").unwrap();
        for (peer, said) in [
            (
                Peer::ISSUER,
                "; ca_file needs the certificates of the CAs that may speak for the issuer, in PEM",
            ),
            (
                Peer::RECEIVER,
                "; --ca-file needs the certificates of the CAs that may speak for the receiver, in PEM",
            ),
        ] {
            let told = told(&file, peer);
            assert!(told.starts_with(&format!("{place}: certificate 1: ")) && told.ends_with(said), "{told}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        let said = format!(
            "{place}: others than its owner may write this file, and so say who is the receiver; run `chmod 600 {place}`"
        );
        assert_eq!(told(&file, Peer::RECEIVER), said);
    }
}
