//! C2SP signed notes (v1, Ed25519) and the checkpoints that they carry.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::merkle::{Hash, sha256};

/// The signature type byte of Ed25519.
const TYPE_ED25519: u8 = 0x01;
/// Signature lines of a note, at most; the specification asks for at least 16.
const SIGNATURES_MAX: usize = 64;

/// Why a text is not a note, a checkpoint or a key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("it is not a verifier key; one looks like name+8 hex digits+base64")]
    NotAVerifierKey,
    #[error("its key id does not belong to its name and public key")]
    KeyId,
    #[error("it is not a signed note")]
    NotANote,
    #[error("it carries no signature of {0}")]
    NotSigned(String),
    #[error("the signature of {0} does not match")]
    Signature(String),
    #[error("its text is not a checkpoint")]
    NotACheckpoint,
    #[error("the private key cannot be read as Ed25519 PKCS#8")]
    PrivateKey,
    #[error("its text does not hand over to a key of the same trail")]
    NotAHandOver,
    #[error("it is signed with a key of {0} whose turn it was not")]
    NotItsTurn(String),
}

/// The public half of a trail's key: who signs, and how to check it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    public: [u8; 32],
}

/// The key that signs checkpoints.
pub(super) struct SigningKey {
    pair: Ed25519KeyPair,
    verifier: VerifierKey,
}

/// What a checkpoint says: the first `size` records of the trail `origin` have this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) origin: String,
    pub(super) size: u64,
    pub(super) root: Hash,
}

/// The signed text of a note, with its last newline, and the lines of signatures.
pub(super) fn split(note: &str) -> Option<(&str, &str)> {
    let at = note.rfind("\n\n")?;
    Some((note.get(..=at)?, note.get(at + 2..)?))
}

/// Who signed and what stands there: key id and signature, not checked.
pub(super) fn signatures(
    lines: &str,
) -> Result<impl Iterator<Item = Result<(&str, Vec<u8>), NoteError>>, NoteError> {
    let lines = lines.strip_suffix('\n').ok_or(NoteError::NotANote)?;
    if lines.split('\n').count() > SIGNATURES_MAX {
        return Err(NoteError::NotANote);
    }
    Ok(lines.split('\n').map(|line| {
        let line = line.strip_prefix("\u{2014} ").ok_or(NoteError::NotANote)?;
        let (name, signature) = line.split_once(' ').ok_or(NoteError::NotANote)?;
        let signature = BASE64.decode(signature).map_err(|_not_base64| NoteError::NotANote)?;
        Ok((name, signature))
    }))
}

// === impl VerifierKey ===

impl VerifierKey {
    /// From its text form, `name+id+key`.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.trim_end().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::NotAVerifierKey);
        };
        let key = BASE64.decode(key).map_err(|_not_base64| NoteError::NotAVerifierKey)?;
        let [TYPE_ED25519, public @ ..] = key.as_slice() else { return Err(NoteError::NotAVerifierKey) };
        let public = public.try_into().map_err(|_wrong_length| NoteError::NotAVerifierKey)?;
        let verifier = Self::new(name, public)?;
        if hex::encode(verifier.id()) == id { Ok(verifier) } else { Err(NoteError::KeyId) }
    }

    /// Whose signatures this checks; a trail's origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn new(name: &str, public: [u8; 32]) -> Result<Self, NoteError> {
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+') {
            return Err(NoteError::NotAVerifierKey);
        }
        Ok(Self { name: name.to_owned(), public })
    }

    fn id(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = sha256(&[self.name.as_bytes(), b"\n", &[TYPE_ED25519], &self.public]);
        [a, b, c, d]
    }

    /// The text of `note`, if this key signed it. Signatures of other keys are passed over.
    pub(super) fn open<'n>(&self, note: &'n str) -> Result<&'n str, NoteError> {
        let (text, lines) = split(note).ok_or(NoteError::NotANote)?;
        let mut found = false;
        for signature in signatures(lines)? {
            let (name, signature) = signature?;
            let (id, signature) = signature.split_at_checked(4).ok_or(NoteError::NotANote)?;
            if name != self.name || id != self.id() {
                continue;
            }
            UnparsedPublicKey::new(&ED25519, &self.public)
                .verify(text.as_bytes(), signature)
                .map_err(|_unspecified| NoteError::Signature(self.name.clone()))?;
            found = true;
        }
        if found { Ok(text) } else { Err(NoteError::NotSigned(self.name.clone())) }
    }

    /// The checkpoint in `note`, if this key signed it and it is about this key's trail.
    pub(super) fn open_checkpoint(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let checkpoint = Checkpoint::parse(self.open(note)?)?;
        if checkpoint.origin == self.name { Ok(checkpoint) } else { Err(NoteError::NotACheckpoint) }
    }
}

impl VerifierKey {
    /// The checkpoint in `note`, and the key of the same trail that signs all later ones, if this key signed it.
    pub(super) fn open_hand_over(&self, note: &str) -> Result<(Checkpoint, Self), NoteError> {
        let text = self.open(note)?.strip_suffix('\n').ok_or(NoteError::NotAHandOver)?;
        let (checkpoint, next) = text.rsplit_once('\n').ok_or(NoteError::NotAHandOver)?;
        let checkpoint = Checkpoint::parse(&format!("{checkpoint}\n"))?;
        let next_key = Self::parse(next)?;
        let is_of_this_trail = checkpoint.origin == self.name && next_key.name == self.name;
        if is_of_this_trail && next_key.to_string() == next {
            Ok((checkpoint, next_key))
        } else {
            Err(NoteError::NotAHandOver)
        }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[TYPE_ED25519], self.public.as_slice()].concat();
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id()), BASE64.encode(key))
    }
}

// === impl SigningKey ===

impl SigningKey {
    pub(super) fn generate(name: &str) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::generate().map_err(|_unspecified| NoteError::PrivateKey)?;
        Self::new(pair, name)
    }

    pub(super) fn from_pkcs8(der: &[u8], name: &str) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_rejected| NoteError::PrivateKey)?;
        Self::new(pair, name)
    }

    fn new(pair: Ed25519KeyPair, name: &str) -> Result<Self, NoteError> {
        let public = pair.public_key().as_ref().try_into().map_err(|_wrong_length| NoteError::PrivateKey)?;
        Ok(Self { verifier: VerifierKey::new(name, public)?, pair })
    }

    pub(super) fn to_pkcs8(&self) -> Result<impl AsRef<[u8]> + use<>, NoteError> {
        self.pair.to_pkcs8().map_err(|_unspecified| NoteError::PrivateKey)
    }

    pub(super) fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The signed checkpoint of this key's trail at `size` records.
    pub(super) fn checkpoint(&self, size: u64, root: Hash) -> String {
        self.sign(&Checkpoint { origin: self.verifier.name.clone(), size, root }.to_string())
    }

    /// The same, and a line more: the key that signs from there on.
    pub(super) fn hand_over(&self, size: u64, root: Hash, next: &VerifierKey) -> String {
        let checkpoint = Checkpoint { origin: self.verifier.name.clone(), size, root };
        self.sign(&format!("{checkpoint}{next}\n"))
    }

    /// `text`, which ends in a newline, with its signature.
    fn sign(&self, text: &str) -> String {
        format!("{text}\n{}", self.line(text))
    }

    /// `note` with this key's signature behind those that it has.
    pub(super) fn sign_too(&self, note: &str) -> Result<String, NoteError> {
        let (text, _) = split(note).ok_or(NoteError::NotANote)?;
        Ok(format!("{note}{}", self.line(text)))
    }

    fn line(&self, text: &str) -> String {
        let signature = self.pair.sign(text.as_bytes());
        let signature = BASE64.encode([&self.verifier.id(), signature.as_ref()].concat());
        format!("\u{2014} {} {signature}\n", self.verifier.name)
    }
}

// === impl Checkpoint ===

impl Checkpoint {
    /// What `note` says, whoever signed it.
    pub(super) fn said(note: &str) -> Result<Self, NoteError> {
        Self::parse(split(note).ok_or(NoteError::NotANote)?.0)
    }

    fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root), Some("")) =
            (lines.next(), lines.next(), lines.next(), lines.next_back())
        else {
            return Err(NoteError::NotACheckpoint);
        };
        let size: u64 = size.parse().map_err(|_not_a_number| NoteError::NotACheckpoint)?;
        let root = BASE64
            .decode(root)
            .ok()
            .and_then(|root| root.try_into().ok())
            .ok_or(NoteError::NotACheckpoint)?;
        let checkpoint = Self { origin: origin.to_owned(), size, root };
        // One spelling only: "+7", "007" and extension lines are not what the guard writes.
        if checkpoint.to_string() == text { Ok(checkpoint) } else { Err(NoteError::NotACheckpoint) }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, BASE64.encode(self.root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOO: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const FOO_NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    const NEUMANN: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NEUMANN_NOTE: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn notes_that_others_signed_are_read() {
        for (key, note) in [(FOO, FOO_NOTE), (NEUMANN, NEUMANN_NOTE)] {
            let key = VerifierKey::parse(key).unwrap();
            let text = key.open(note).unwrap();
            assert!(note.starts_with(text) && text.ends_with(".\n"));
        }
        assert_eq!(VerifierKey::parse(FOO).unwrap().to_string(), FOO);
    }

    #[test]
    fn a_changed_note_is_refused_at_every_byte() {
        let key = VerifierKey::parse(FOO).unwrap();
        for at in 0..FOO_NOTE.len() {
            let mut bytes = FOO_NOTE.as_bytes().to_vec();
            bytes[at] ^= 1;
            if let Ok(note) = std::str::from_utf8(&bytes) {
                assert!(key.open(note).is_err(), "byte {at}: {note:?}");
            }
        }
    }

    #[test]
    fn signatures_of_strangers_are_passed_over() {
        let key = VerifierKey::parse(FOO).unwrap();
        let stranger = NEUMANN_NOTE.rsplit("\n\n").next().unwrap();
        assert!(key.open(&format!("{FOO_NOTE}{stranger}")).is_ok());
        assert_eq!(key.open(NEUMANN_NOTE), Err(NoteError::NotSigned("example.com/foo".into())));
    }

    #[test]
    fn a_key_id_must_belong_to_its_key() {
        assert_eq!(VerifierKey::parse(&FOO.replace("530d903a", "530d903b")), Err(NoteError::KeyId));
        assert_eq!(VerifierKey::parse("a b"), Err(NoteError::NotAVerifierKey));
    }

    #[test]
    fn a_checkpoint_reads_back_and_has_one_spelling() {
        let key = SigningKey::generate("host/mcp-guard/1").unwrap();
        let again = SigningKey::from_pkcs8(key.to_pkcs8().unwrap().as_ref(), "host/mcp-guard/1").unwrap();
        let note = again.checkpoint(7, [9; 32]);
        let read = key.verifier().open_checkpoint(&note).unwrap();
        assert_eq!(read, Checkpoint { origin: "host/mcp-guard/1".into(), size: 7, root: [9; 32] });

        let text = read.to_string();
        for other in
            [text.replace("\n7\n", "\n07\n"), text.replace("\n7\n", "\n+7\n"), format!("{text}more\n")]
        {
            assert_eq!(Checkpoint::parse(&other), Err(NoteError::NotACheckpoint), "{other:?}");
        }
    }

    /// Another implementation of the format (`signed_note`).
    mod against_another {
        use proptest::prelude::*;
        use signed_note::{Note, Signer, StandardSigner, StandardVerifier, VerifierList};

        use super::*;

        /// The private half of the key of [`NEUMANN`], as published with it.
        const SECRET: &str = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";

        proptest! {
            #[test]
            fn what_this_one_signs_the_other_takes(name in "[a-z0-9./-]{1,40}", size: u64, root: [u8; 32]) {
                let key = SigningKey::generate(&name).unwrap();
                let note = Note::from_bytes(key.checkpoint(size, root).as_bytes()).unwrap();
                let theirs = StandardVerifier::new(&key.verifier().to_string()).unwrap();
                let (signed, unknown) = note.verify(&VerifierList::new(vec![Box::new(theirs)])).unwrap();
                prop_assert_eq!((signed.len(), unknown.len()), (1, 0));
            }

            #[test]
            fn what_the_other_signs_this_one_takes(text in "([ -~\u{a0}-\u{2fff}]{0,30}\n){1,5}") {
                let mut note = Note::new(text.as_bytes(), &[]).unwrap();
                let signer = StandardSigner::new(SECRET).unwrap();
                note.add_sigs(&[&signer as &dyn Signer]).unwrap();
                let note = String::from_utf8(note.to_bytes()).unwrap();
                prop_assert_eq!(VerifierKey::parse(NEUMANN).unwrap().open(&note), Ok(text.as_str()));
            }
        }
    }
}
