//! Names of client certificates: each that is read from a certificate, or from an entry, is written and read again as the same.
#![no_main]

use guard_fuzz::identity::certificate::{self, CertificateName, SpiffeId, Subject};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(names) = certificate::names(bytes) {
        let is_id = |name: &&CertificateName| matches!(name, CertificateName::Spiffe(_));
        assert!(names.iter().filter(is_id).count() <= 1, "one SPIFFE ID: {names:?}");
        for name in names {
            match name {
                CertificateName::Spiffe(id) => assert_eq!(SpiffeId::parse(id.as_str()), Ok(id)),
                CertificateName::Subject(subject) => {
                    assert_eq!(Subject::parse(&subject.to_string()), Ok(subject))
                }
                CertificateName::Dns(ref dns) => {
                    assert_eq!(CertificateName::dns(dns).as_ref(), Some(&name));
                    assert!(
                        !dns.contains('*') && !dns.bytes().any(|byte| byte.is_ascii_uppercase()),
                        "{dns}"
                    );
                }
            }
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(subject) = Subject::parse(text) {
        assert_eq!(Subject::parse(&subject.to_string()), Ok(subject));
    }
    if let Ok(id) = SpiffeId::parse(text) {
        assert!(
            id.as_str() == text && !text.contains(['%', '?', '#', '@', ':'])
                || text.matches(':').count() == 1
        );
    }
    if let Some(CertificateName::Dns(dns)) = CertificateName::dns(text) {
        assert!(dns.eq_ignore_ascii_case(text));
    }
});
