//! The CAs that may speak for an issuer, from a file of one's own.

use std::path::Path;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::load::{PEM_BYTES_MAX, trusted};
use crate::config::Problem;

/// Every certificate of a PEM file. Refused if anybody but root and the guard's own user may write it: whose CA is in it can say whose
/// tokens are good.
pub fn authorities(file: &Path) -> Result<RootCertStore, Problem> {
    let text = trusted(file, PEM_BYTES_MAX)?;
    let hint = "write the certificates of the CAs to it that may speak for the issuer, in PEM";
    let problem = |what: String| Problem::of_file(file, what).with_hint(hint);
    let mut roots = RootCertStore::empty();
    for (index, certificate) in CertificateDer::pem_slice_iter(&text).enumerate() {
        let unfit = |error: &dyn std::fmt::Display| problem(format!("certificate {}: {error}", index + 1));
        let certificate = certificate.map_err(|error| unfit(&error))?;
        roots.add(certificate).map_err(|error| unfit(&error))?;
    }
    if roots.is_empty() {
        return Err(problem("there is no certificate in it".into()));
    }
    Ok(roots)
}
