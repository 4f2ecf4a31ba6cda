//! A body on its way to being whole.

use bytes::Bytes;

/// What has come so far. Most bodies come in one piece, which needs no copy.
#[derive(Debug, Default)]
pub struct Pieces {
    first: Bytes,
    more: Vec<u8>,
}

impl Pieces {
    pub fn push(&mut self, piece: Bytes) {
        if self.more.is_empty() && self.first.is_empty() {
            self.first = piece;
        } else {
            self.more.extend_from_slice(&std::mem::take(&mut self.first));
            self.more.extend_from_slice(&piece);
        }
    }

    pub fn into_bytes(self) -> Bytes {
        if self.more.is_empty() { self.first } else { self.more.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_together_in_order() {
        for cuts in [&["abc"][..], &["a", "b", "c"], &["", "ab", "", "c", ""], &["ab", "c"]] {
            let mut pieces = Pieces::default();
            for cut in cuts {
                pieces.push(Bytes::from_static(cut.as_bytes()));
            }
            assert_eq!(pieces.into_bytes(), "abc", "{cuts:?}");
        }
        assert!(Pieces::default().into_bytes().is_empty());
    }
}
