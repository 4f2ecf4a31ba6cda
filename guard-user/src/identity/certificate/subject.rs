//! Subjects of certificates, compared whole: no part of one, and no other order, is the same.

use std::fmt;

use x509_parser::der_parser::asn1_rs::{Ia5String, PrintableString, Tag, Utf8String};
use x509_parser::x509::X509Name;

/// Most attributes of a subject.
const ATTRIBUTES_MAX: usize = 32;

/// Short names of attributes (RFC 4514 and what openssl prints), in any case, and the object identifiers that they are.
const SHORT: [(&str, &str); 11] = [
    ("CN", "2.5.4.3"),
    ("SERIALNUMBER", "2.5.4.5"),
    ("C", "2.5.4.6"),
    ("L", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("STREET", "2.5.4.9"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("UID", "0.9.2342.19200300.100.1.1"),
    ("DC", "0.9.2342.19200300.100.1.25"),
    ("EMAILADDRESS", "1.2.840.113549.1.9.1"),
];

/// A distinguished name, such as `CN=billing,O=Corp`: its attributes with their values, byte for byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    /// Object identifier and value, as in the certificate: the one next to the root first.
    attributes: Vec<(Box<str>, Box<str>)>,
}

/// Why a text is no subject, or why a certificate's can be compared with none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotASubject {
    #[error("it is empty")]
    Empty,
    #[error("it has more than {ATTRIBUTES_MAX} attributes")]
    TooMany,
    #[error("a part of it is not NAME=value")]
    NotAPair,
    #[error(
        "the name of an attribute is neither a known one (CN, O, OU, C, L, ST, STREET, DC, UID, serialNumber, emailAddress) nor numbers with dots"
    )]
    Name,
    #[error("a value is empty, or begins or ends with a blank; write no blanks around `,` and `=`")]
    Blank,
    #[error("several attributes stand side by side (`+`), in no order")]
    Several,
    #[error("a value has a character that needs a `\\` before it, or a `\\` before one that needs none")]
    Escape,
    #[error("a value is no text")]
    NotText,
}

impl Subject {
    /// Reads the form of RFC 4514, which `openssl x509 -noout -subject -nameopt RFC2253` prints.
    pub fn parse(text: &str) -> Result<Self, NotASubject> {
        if text.is_empty() {
            return Err(NotASubject::Empty);
        }
        let mut attributes = Vec::new();
        let mut rest = text;
        loop {
            let (name, after) = rest.split_once('=').ok_or(NotASubject::NotAPair)?;
            let (value, next) = value(after)?;
            attributes.push((oid(name)?, value.into_boxed_str()));
            if attributes.len() > ATTRIBUTES_MAX {
                return Err(NotASubject::TooMany);
            }
            match next {
                Some(next) => rest = next,
                None => break,
            }
        }
        // What is written first stands last in a certificate.
        attributes.reverse();
        Ok(Self { attributes })
    }

    /// That of a certificate.
    pub(super) fn of(name: &X509Name<'_>) -> Result<Self, NotASubject> {
        let mut attributes = Vec::new();
        for part in name.iter_rdn() {
            let mut each = part.iter();
            let (Some(attribute), None) = (each.next(), each.next()) else {
                return Err(NotASubject::Several);
            };
            let value = attribute.attr_value();
            let text = match value.tag() {
                Tag::Utf8String => Utf8String::try_from(value).map(|text| text.string()),
                Tag::PrintableString => PrintableString::try_from(value).map(|text| text.string()),
                Tag::Ia5String => Ia5String::try_from(value).map(|text| text.string()),
                // Older kinds of text are read in several ways.
                _ => return Err(NotASubject::NotText),
            };
            let text = text.map_err(|_no_text| NotASubject::NotText)?;
            // No entry can name it.
            if text.is_empty() {
                return Err(NotASubject::Blank);
            }
            attributes.push((attribute.attr_type().to_id_string().into(), text.into()));
            if attributes.len() > ATTRIBUTES_MAX {
                return Err(NotASubject::TooMany);
            }
        }
        if attributes.is_empty() { Err(NotASubject::Empty) } else { Ok(Self { attributes }) }
    }
}

/// A value up to the next comma, with its escapes resolved; what follows, if something does.
fn value(text: &str) -> Result<(String, Option<&str>), NotASubject> {
    let mut bytes = Vec::new();
    let mut chars = text.char_indices();
    let (mut next, mut ends_blank) = (None, false);
    while let Some((at, c)) = chars.next() {
        if c != ',' {
            ends_blank = c == ' ';
        }
        match c {
            ',' => {
                next = text.get(at + 1..);
                break;
            }
            '+' => return Err(NotASubject::Several),
            '"' | ';' | '<' | '>' | '\0' => return Err(NotASubject::Escape),
            '#' if bytes.is_empty() => return Err(NotASubject::Escape),
            ' ' if bytes.is_empty() => return Err(NotASubject::Blank),
            '\\' => match chars.next().map(|(_, c)| c).ok_or(NotASubject::Escape)? {
                c @ (' ' | '"' | '#' | '+' | ',' | ';' | '<' | '=' | '>' | '\\') => bytes.push(c as u8),
                high => {
                    let low = chars.next().map(|(_, c)| c).and_then(|c| c.to_digit(16));
                    let byte =
                        high.to_digit(16).zip(low).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
                    bytes.push(byte.ok_or(NotASubject::Escape)?);
                }
            },
            c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    if bytes.is_empty() || ends_blank {
        return Err(NotASubject::Blank);
    }
    let value = String::from_utf8(bytes).map_err(|_no_text| NotASubject::NotText)?;
    Ok((value, next))
}

fn oid(name: &str) -> Result<Box<str>, NotASubject> {
    if name != name.trim() {
        return Err(NotASubject::Blank);
    }
    if let Some((_, oid)) = SHORT.iter().find(|(short, _)| short.eq_ignore_ascii_case(name)) {
        return Ok((*oid).into());
    }
    let mut parts = name.split('.');
    let is_number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    if name.contains('.') && parts.all(is_number) { Ok(name.into()) } else { Err(NotASubject::Name) }
}

/// In the form that [`Subject::parse`] reads.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (oid, value)) in self.attributes.iter().rev().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let short = SHORT.iter().find(|(_, known)| **known == **oid).map_or(&**oid, |(short, _)| short);
            write!(f, "{short}=")?;
            let last = value.chars().count().saturating_sub(1);
            for (at, c) in value.chars().enumerate() {
                match c {
                    '"' | '+' | ',' | ';' | '<' | '>' | '\\' => write!(f, "\\{c}")?,
                    '#' if at == 0 => f.write_str("\\#")?,
                    ' ' if at == 0 || at == last => f.write_str("\\ ")?,
                    c if c.is_control() => {
                        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                            write!(f, "\\{byte:02X}")?;
                        }
                    }
                    c => write!(f, "{c}")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// That of a certificate in DER, for tests.
#[cfg(test)]
pub(super) fn of_der(der: &[u8]) -> Result<Subject, NotASubject> {
    use x509_parser::prelude::FromDer;
    let (_, certificate) =
        x509_parser::certificate::X509Certificate::from_der(der).map_err(|_error| NotASubject::NotText)?;
    Subject::of(certificate.subject())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn certificate(attributes: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_subject_is_compared_whole_and_in_its_order() {
        let ours = Subject::parse("CN=billing,O=Corp").unwrap();
        let of = |attributes: &[(DnType, &str)]| of_der(&certificate(attributes)).unwrap();
        let (o, cn, ou) = (DnType::OrganizationName, DnType::CommonName, DnType::OrganizationalUnitName);
        assert_eq!(of(&[(o.clone(), "Corp"), (cn.clone(), "billing")]), ours);
        for other in [
            vec![(cn.clone(), "billing"), (o.clone(), "Corp")],
            vec![(cn.clone(), "billing")],
            vec![(o.clone(), "Corp"), (cn.clone(), "billing2")],
            vec![(o.clone(), "Corp"), (cn.clone(), "Billing")],
            vec![(o.clone(), "Corp "), (cn.clone(), "billing")],
            vec![(o.clone(), "Corp"), (cn.clone(), "billing,O=Corp")],
            vec![(cn.clone(), "billing,O=Corp")],
            vec![(o.clone(), "Corp"), (ou.clone(), "x"), (cn.clone(), "billing")],
            vec![(ou, "Corp"), (cn, "billing")],
        ] {
            assert_ne!(of(&other), ours, "{other:?}");
        }
    }

    #[test]
    fn a_text_is_a_subject_in_one_form() {
        for (text, same) in [
            ("cn=billing,o=Corp", "CN=billing,O=Corp"),
            ("2.5.4.3=billing,O=Corp", "CN=billing,O=Corp"),
            (r"CN=a\,b,O=x\+y", r"CN=a\2Cb,O=x\2By"),
            (r"CN=\20a\20", r"CN=\ a\ "),
            (r"CN=J\C3\B6rg", "CN=J\u{f6}rg"),
            ("emailAddress=a@b,DC=x", "EMAILADDRESS=a@b,dc=x"),
            ("CN=a=b", r"CN=a\=b"),
        ] {
            assert_eq!(Subject::parse(text), Subject::parse(same), "{text}");
            assert!(Subject::parse(text).is_ok(), "{text}");
        }
        for (text, fault) in [
            ("", NotASubject::Empty),
            ("billing", NotASubject::NotAPair),
            ("CN=billing,", NotASubject::NotAPair),
            ("CN=billing, O=Corp", NotASubject::Blank),
            ("CN = billing", NotASubject::Blank),
            ("CN=", NotASubject::Blank),
            ("CN= billing", NotASubject::Blank),
            ("CN=billing ", NotASubject::Blank),
            ("CN=billing ,O=Corp", NotASubject::Blank),
            ("CN=billing+OU=x", NotASubject::Several),
            ("CN=bill;ing", NotASubject::Escape),
            ("CN=#0403", NotASubject::Escape),
            (r"CN=a\x", NotASubject::Escape),
            (r"CN=a\", NotASubject::Escape),
            (r"CN=\C3", NotASubject::NotText),
            ("FOO=a", NotASubject::Name),
            ("2.5.04.3=a", NotASubject::Name),
            ("2=a", NotASubject::Name),
        ] {
            assert_eq!(Subject::parse(text), Err(fault), "{text:?}");
        }
    }

    #[test]
    fn no_two_attributes_stand_for_one() {
        let nothing = certificate(&[]);
        assert_eq!(of_der(&nothing), Err(NotASubject::Empty));
        let blank = certificate(&[(DnType::OrganizationName, "Corp"), (DnType::CommonName, "")]);
        assert_eq!(of_der(&blank), Err(NotASubject::Blank), "no entry could name it");
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(values in proptest::collection::vec("[ -~\u{e9}\u{1}]{1,6}", 1..5)) {
            let attributes = values.iter().map(|value| ("2.5.4.3".into(), value.as_str().into())).collect();
            let subject = Subject { attributes };
            prop_assert_eq!(Subject::parse(&subject.to_string()), Ok(subject));
        }

        #[test]
        fn no_text_is_read_with_a_panic(text in "[CNO=,+\\\\ \"#;a-f0-9\u{e9}.]{0,24}") {
            let _ = Subject::parse(&text);
        }
    }
}
