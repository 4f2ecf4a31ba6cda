//! Verifier keys and signed checkpoints (C2SP signed-note and tlog-checkpoint, Ed25519 only).

use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

use super::tree::Hash;

/// Signature lines of a note.
const SIGNATURES_MAX: usize = 64;

/// Who signs a trail.
pub(crate) struct Key {
    pub(crate) name: String,
    id: [u8; 4],
    public: VerifyingKey,
}

/// The first `size` records of the trail `origin` have this root.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) origin: String,
    pub(crate) size: u64,
    pub(crate) root: Hash,
    /// A line behind that: the key that signs from there on.
    pub(crate) more: Option<String>,
}

/// Why a note is not what it should be.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It carries no signature of the key whose turn it was.
    Stranger(String),
    Wrong(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Stranger(reason) | Self::Wrong(reason)) = self;
        f.write_str(reason)
    }
}

impl From<&str> for Refused {
    fn from(reason: &str) -> Self {
        Self::Wrong(reason.to_owned())
    }
}

/// The text of a note up to its signatures, and the checkpoint that it is, whoever signed it.
pub(crate) fn open_of(note: &str) -> Result<(String, Checkpoint), Refused> {
    let (text, _signatures) = note.rsplit_once("\n\n").ok_or("not a signed note")?;
    let lines: Vec<&str> = text.split('\n').collect();
    let (origin, size, root, more) = match lines.as_slice() {
        [origin, size, root] => (*origin, *size, *root, None),
        [origin, size, root, more] => (*origin, *size, *root, Some((*more).to_owned())),
        _ => return Err("not a checkpoint".into()),
    };
    let number: u64 = size.parse().map_err(|_why| "a checkpoint without a size")?;
    if number.to_string() != size {
        return Err("a size with leading zeros".into());
    }
    let root = base64(root).and_then(|root| root.try_into().ok()).ok_or("a checkpoint without a root")?;
    Ok((format!("{text}\n"), Checkpoint { origin: origin.to_owned(), size: number, root, more }))
}

impl Key {
    /// From `name+id+base64(0x01 || public key)`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, rest) = text.trim().split_once('+').ok_or("not a verifier key (name+id+key)")?;
        let (id, key) = rest.split_once('+').ok_or("not a verifier key (name+id+key)")?;
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("the key's name has a blank or a control character, or is empty".into());
        }
        let key = base64(key).ok_or("the key is not base64")?;
        let [1, public @ ..] = key.as_slice() else { return Err("not an Ed25519 key".into()) };
        let public: [u8; 32] = public.try_into().map_err(|_why| "an Ed25519 key has 32 bytes")?;
        let hash = Sha256::new().chain_update(name).chain_update([b'\n', 1]).chain_update(public).finalize();
        let own = [hash[0], hash[1], hash[2], hash[3]];
        if hex(&own) != id {
            return Err(format!("the key's id is {}, not {id}", hex(&own)));
        }
        let public = VerifyingKey::from_bytes(&public).map_err(|_why| "not a point on the curve")?;
        Ok(Self { name: name.to_owned(), id: own, public })
    }

    /// An error unless this key signed the checkpoint in `note`.
    pub(crate) fn signed(&self, note: &str) -> Result<(), Refused> {
        let (text, _) = open_of(note)?;
        let (_, signatures) = note.rsplit_once("\n\n").ok_or("not a signed note")?;
        let signatures = signatures.strip_suffix('\n').ok_or("the note's last line has no end")?;
        if signatures.split('\n').count() > SIGNATURES_MAX {
            return Err("a note with more than 64 signatures".into());
        }
        let mut signed = false;
        for line in signatures.split('\n') {
            let line = line.strip_prefix("\u{2014} ").ok_or("a signature line does not start with a dash")?;
            let (name, blob) = line.split_once(' ').ok_or("a signature line without a signature")?;
            let blob = base64(blob).ok_or("a signature is not base64")?;
            let Some((id, signature)) = blob.split_first_chunk::<4>() else {
                return Err("a signature is too short".into());
            };
            if name == self.name && *id == self.id {
                let signature =
                    Signature::from_slice(signature).map_err(|_why| "a signature has the wrong length")?;
                self.public
                    .verify_strict(text.as_bytes(), &signature)
                    .map_err(|_why| Refused::Wrong(format!("the signature of {name} does not match")))?;
                signed = true;
            }
        }
        if signed {
            Ok(())
        } else {
            let reason =
                format!("not signed with the key of {} whose turn it was ({})", self.name, hex(&self.id));
            Err(Refused::Stranger(reason))
        }
    }
}

/// `bytes` in lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

/// Standard base64 with padding, in its one canonical spelling.
pub(crate) fn base64(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if bytes.is_empty() || !bytes.len().is_multiple_of(4) {
        return None;
    }
    let data = text.trim_end_matches('=');
    let padding = text.len() - data.len();
    if padding > 2 {
        return None;
    }
    let (mut out, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for byte in data.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
            bits &= (1 << count) - 1;
        }
    }
    // What is left over must be the zero bits that the padding stands for.
    (bits == 0 && count == 2 * padding).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_one_spelling() {
        assert_eq!(base64("TWFu").as_deref(), Some(&b"Man"[..]));
        assert_eq!(base64("TWE=").as_deref(), Some(&b"Ma"[..]));
        assert_eq!(base64("TQ==").as_deref(), Some(&b"M"[..]));
        for wrong in ["", "TWF", "TWF=", "TR==", "TQ=", "T===", "TW=u", "TW\nu", "____"] {
            assert_eq!(base64(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_published_key_is_read_and_its_id_is_checked() {
        let text = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
        assert_eq!(Key::parse(text).ok().map(|key| key.name).as_deref(), Some("example.com/foo"));
        assert!(Key::parse(&text.replace("530d", "530e")).is_err());
        for name in ["", "a b", "a\nSOUND", "a\u{1b}[2K", "a\u{85}b"] {
            assert!(
                Key::parse(&text.replace("example.com/foo", name)).is_err_and(|why| why.contains("name")),
                "{name:?}"
            );
        }
    }
}
