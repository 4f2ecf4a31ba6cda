//! Where in a text numbers may begin: eight bytes at a time, since most of a text is no number.

use super::find::DIGITS_MIN;

/// Bytes that are looked at at once.
pub(super) const BLOCK: usize = 64;
/// Digits from which on a number without a form of its own may be something.
const LONG: u32 = 11;

/// Where a number may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) at: usize,
    /// Digits up to the first other byte, and in all with what stands between the digits of numbers, at most 64 bytes of both.
    first: u32,
    pub(super) count: u32,
    /// A letter ends them.
    letter: bool,
}

impl Start {
    pub(super) fn is_long(self) -> bool {
        self.count >= LONG
    }

    /// Whether a number may begin here that has nothing before it: `078-05-1120` and `(555) 234-5678`, `12345678Z`, `2 55 08 2A ...`,
    /// `0049 30 ...`.
    pub(super) fn may_be_free(self, text: &[u8]) -> bool {
        self.is_long()
            || (self.first == 3 && self.count >= 9)
            || self.first == 8
            || (self.letter && self.count == 6)
            || (self.count >= 10 && text.starts_with(b"00"))
    }
}

/// The places at which a group of digits begins that has no letter or digit before it, or one or two letters with none before
/// these: nothing else begins a number of any kind. Those with no letter are left out if they are fewer than any number's.
pub(super) struct Starts<'t> {
    text: &'t [u8],
    /// Of the block whose places are told.
    at: usize,
    /// Places in the block.
    places: u64,
    /// Those of them that have a letter before them.
    behind: u64,
    last: Masks,
    now: Masks,
    ahead: Masks,
}

impl<'t> Starts<'t> {
    pub(super) fn of(text: &'t [u8]) -> Self {
        let masks = [0, BLOCK].map(|at| Masks::of(text.get(at..).unwrap_or_default()));
        let [now, ahead] = masks;
        let mut starts = Self { text, at: 0, places: 0, behind: 0, last: Masks::default(), now, ahead };
        starts.look();
        starts
    }

    /// Looks at the next block. `None` at the end.
    fn step(&mut self) -> Option<()> {
        self.at += BLOCK;
        if self.at >= self.text.len() {
            return None;
        }
        self.last = self.now;
        self.now = self.ahead;
        self.ahead = Masks::of(self.text.get(self.at + BLOCK..).unwrap_or_default());
        self.look();
        Some(())
    }

    fn look(&mut self) {
        let Self { last, now, .. } = self;
        // The byte that stands so many before each.
        let before = |mask: u64, last: u64, by: u32| mask << by | last >> (64 - by);
        let letter = |by: u32| before(now.letters, last.letters, by);
        let free = |by: u32| !letter(by) & !before(now.digits, last.digits, by);
        let begins = now.digits & !before(now.digits, last.digits, 1);
        self.behind = letter(1);
        self.places = begins & (free(1) | letter(1) & (free(2) | letter(2) & free(3)));
    }

    fn start(&self, bit: u32) -> Start {
        let both = |now: u64, ahead: u64| if bit == 0 { now } else { now >> bit | ahead << (64 - bit) };
        let Self { now, ahead, .. } = self;
        let digits = both(now.digits, ahead.digits);
        let others = !(digits | both(now.between, ahead.between));
        let length = others.trailing_zeros();
        let counted = 1_u64.checked_shl(length).unwrap_or_default().wrapping_sub(1);
        let letters = both(now.letters, ahead.letters);
        Start {
            at: self.at + usize::try_from(bit).unwrap_or_default(),
            first: digits.trailing_ones(),
            // Nobody knows how it goes on.
            count: if length == u64::BITS { LONG } else { (digits & counted).count_ones() },
            letter: letters.checked_shr(length).unwrap_or_default() & 1 != 0,
        }
    }
}

impl Iterator for Starts<'_> {
    type Item = Start;

    fn next(&mut self) -> Option<Start> {
        loop {
            while self.places == 0 {
                self.step()?;
            }
            let bit = self.places.trailing_zeros();
            self.places &= self.places - 1;
            let start = self.start(bit);
            if start.count >= u32::from(DIGITS_MIN) || self.behind >> bit & 1 != 0 {
                return Some(start);
            }
        }
    }
}

/// What the bytes of a block are: one bit each, the first the lowest.
#[derive(Debug, Clone, Copy, Default)]
struct Masks {
    digits: u64,
    letters: u64,
    /// What stands between the digits of a number.
    between: u64,
}

impl Masks {
    /// Of a text's beginning.
    fn of(text: &[u8]) -> Self {
        if text.is_empty() { Self::default() } else { Self::of_block(&block(text)) }
    }

    fn of_block(block: &[u8; BLOCK]) -> Self {
        let is_digit = |byte: u8| byte.wrapping_sub(b'0') < 10;
        let is_letter = |byte: u8| (byte | 0x20).wrapping_sub(b'a') < 26;
        let is_between =
            |byte: u8| (byte == b' ') | (byte.wrapping_sub(b'(') < 2) | (byte.wrapping_sub(b'-') < 3);
        Self {
            digits: mask(block, is_digit),
            letters: mask(block, is_letter),
            between: mask(block, is_between),
        }
    }
}

/// The first bytes of a text; beyond its end nothing stands.
pub(super) fn block(text: &[u8]) -> [u8; BLOCK] {
    text.first_chunk().copied().unwrap_or_else(|| {
        let mut block = [0; BLOCK];
        block.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        block
    })
}

/// Which bytes of a block are so: one bit each, the first the lowest.
pub(super) fn mask(block: &[u8; BLOCK], is_so: impl Fn(u8) -> bool) -> u64 {
    // The compiler makes wide instructions of this.
    let mut flags = [0; BLOCK];
    flags.iter_mut().zip(block).for_each(|(flag, byte)| *flag = u8::from(is_so(*byte)) << 7);
    let words = (0_u32..).zip(flags.as_chunks::<8>().0);
    words.fold(0, |all, (index, word)| all | bits(u64::from_le_bytes(*word)) << (8 * index))
}

/// The highest bits of eight bytes, as one byte.
fn bits(word: u64) -> u64 {
    (word >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(text: &[u8]) -> Vec<Start> {
        let is = |at: Option<usize>, test: fn(&u8) -> bool| at.and_then(|at| text.get(at)).is_some_and(test);
        let start = |at: usize| {
            let before = |back: usize| at.checked_sub(back);
            let is_letter = |back| is(before(back), u8::is_ascii_alphabetic);
            let is_free = |back| !is(before(back), u8::is_ascii_alphanumeric);
            let begins = is(Some(at), u8::is_ascii_digit)
                && (is_free(1) || is_letter(1) && is_free(2) || is_letter(1) && is_letter(2) && is_free(3));
            let rest = &text[at..];
            let digits = |text: &[u8]| text.iter().filter(|byte| byte.is_ascii_digit()).count();
            let first = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let is_part = |byte: &&u8| byte.is_ascii_digit() || b" ().-/".contains(byte);
            let length = rest.iter().take_while(is_part).count();
            let count = if length < 64 { digits(&rest[..length]) } else { 11 };
            let letter = length < 64 && is(Some(at + length), u8::is_ascii_alphabetic);
            let number = |count: usize| u32::try_from(count.min(64)).unwrap();
            let start = Start { at, first: number(first), count: number(count), letter };
            (begins && (count >= 6 || is_letter(1))).then_some(start)
        };
        (0..text.len()).filter_map(start).collect()
    }

    #[test]
    fn each_byte_is_what_it_is() {
        for byte in 0..=u8::MAX {
            let many = [[byte; 70].as_slice(), b"1234567"].concat();
            for text in [
                &[byte, b'1', b'2', b'3', b'4', b'5', b'6', byte],
                &[b' ', byte, b'a', b'1', byte][..],
                &many,
            ] {
                assert_eq!(Starts::of(text).collect::<Vec<_>>(), naive(text), "{byte}");
            }
        }
    }

    proptest! {
        #[test]
        fn numbers_begin_where_one_looks_byte_by_byte(text in "([0-9a-zA-Z]{1,3}|[0-9]{2,9}|[ .+-]|é|[/:@`{\\[]){0,90}") {
            prop_assert_eq!(Starts::of(text.as_bytes()).collect::<Vec<_>>(), naive(text.as_bytes()));
        }

        #[test]
        fn a_long_group_goes_on_over_blocks(before in " {0,70}", digits in "[0-9 -]{0,150}", after in "[a .]?") {
            let text = format!("{before}{digits}{after}");
            prop_assert_eq!(Starts::of(text.as_bytes()).collect::<Vec<_>>(), naive(text.as_bytes()));
        }
    }
}
