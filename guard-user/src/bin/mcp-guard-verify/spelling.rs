//! JSON in the one spelling that a trail has: of two that mean the same, other readers may understand one in another way.

/// Objects and lists within each other.
const DEPTH_MAX: usize = 32;
/// Names that are compared with each other without sorting them.
const FEW_NAMES: usize = 64;
/// Members of most records.
const MEMBERS: usize = 48;

/// Reads one value, from its first byte on.
struct Reader<'a> {
    line: &'a [u8],
    at: usize,
    /// Those of the objects that are open.
    names: Vec<&'a [u8]>,
}

/// Names and values of an object's members, as they are spelled.
pub(crate) type Members<'a> = Vec<(&'a [u8], &'a [u8])>;

/// Reads `line`, which is printable ASCII. Says what keeps it from being one object in JSON, without blanks, with each name once, whole
/// numbers of 64 bits and no escape that could be left out.
pub(crate) fn read(line: &[u8]) -> Result<Members<'_>, String> {
    let mut members = Vec::with_capacity(MEMBERS);
    let mut reader = Reader { line, at: 0, names: Vec::with_capacity(MEMBERS) };
    let read = match reader.object(1, |name, value| members.push((name, value))) {
        Ok(()) if reader.at < line.len() => Err("something else behind the record"),
        read => read,
    };
    read.map_err(|why| format!("{why} (byte {})", reader.at))?;
    Ok(members)
}

impl<'a> Reader<'a> {
    fn peek(&self) -> u8 {
        self.line.get(self.at).copied().unwrap_or(0)
    }

    fn is_next(&mut self, byte: u8) -> bool {
        let is_next = self.line.get(self.at) == Some(&byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn is_word(&mut self, word: &[u8]) -> bool {
        let is_word = self.line.get(self.at..).is_some_and(|rest| rest.starts_with(word));
        self.at += if is_word { word.len() } else { 0 };
        is_word
    }

    fn value(&mut self, depth: usize) -> Result<(), &'static str> {
        match self.peek() {
            b'{' => self.object(depth, |_, _| {}),
            b'[' => self.list(depth),
            b'"' => self.text().map(drop),
            b'-' | b'0'..=b'9' => self.number(),
            b'a'..=b'z' if self.is_word(b"null") || self.is_word(b"true") || self.is_word(b"false") => Ok(()),
            _ => Err("no value, or a blank before it"),
        }
    }

    fn object(
        &mut self,
        depth: usize,
        mut member: impl FnMut(&'a [u8], &'a [u8]),
    ) -> Result<(), &'static str> {
        let before = self.names.len();
        self.several(depth, *b"{}", |reader| {
            let name = reader.text()?;
            if !reader.is_next(b':') {
                return Err("no colon behind a name");
            }
            let start = reader.at;
            reader.value(depth + 1)?;
            reader.names.push(name);
            member(name, reader.line.get(start..reader.at).unwrap_or_default());
            Ok(())
        })?;
        let is_twice = has_twice(self.names.get_mut(before..).unwrap_or_default());
        self.names.truncate(before);
        if is_twice { Err("an object has a name twice") } else { Ok(()) }
    }

    fn list(&mut self, depth: usize) -> Result<(), &'static str> {
        self.several(depth, *b"[]", |reader| reader.value(depth + 1))
    }

    /// What `one` reads, as often as it is there, with a comma between.
    fn several(
        &mut self,
        depth: usize,
        [begin, end]: [u8; 2],
        mut one: impl FnMut(&mut Self) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        if depth > DEPTH_MAX {
            return Err("too many objects and lists within each other");
        }
        if !self.is_next(begin) {
            return Err("no object");
        }
        if self.is_next(end) {
            return Ok(());
        }
        loop {
            one(self)?;
            if self.is_next(end) {
                return Ok(());
            }
            if !self.is_next(b',') {
                return Err("no comma, or a blank before it");
            }
        }
    }

    /// As it stands between its quotes.
    fn text(&mut self) -> Result<&'a [u8], &'static str> {
        if !self.is_next(b'"') {
            return Err("no text, or a blank before it");
        }
        let start = self.at;
        loop {
            let rest = self.line.get(self.at..).unwrap_or_default();
            let plain = memchr::memchr2(b'"', b'\\', rest);
            let end = self.at + plain.ok_or("a text without an end")?;
            self.at = end + 1;
            if self.line.get(end) == Some(&b'"') {
                return Ok(self.line.get(start..end).unwrap_or_default());
            }
            self.escape()?;
        }
    }

    fn escape(&mut self) -> Result<(), &'static str> {
        if matches!(self.peek(), b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't') {
            self.at += 1;
            return Ok(());
        }
        let code = match self.unit()? {
            high @ 0xd800..0xdc00 if self.is_next(b'\\') => match self.unit()? {
                low @ 0xdc00..0xe000 => 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00),
                _ => return Err("half a character"),
            },
            code => code,
        };
        match char::from_u32(code) {
            None => Err("half a character"),
            Some(' '..='~' | '\u{8}' | '\t' | '\n' | '\u{c}' | '\r') => {
                Err("an escape for what has a shorter one")
            }
            Some(_) => Ok(()),
        }
    }

    fn unit(&mut self) -> Result<u32, &'static str> {
        if !self.is_next(b'u') {
            return Err("an unknown escape");
        }
        let mut unit = 0;
        for _ in 0..4 {
            let digit = match self.peek() {
                digit @ b'0'..=b'9' => digit - b'0',
                digit @ b'a'..=b'f' => digit - b'a' + 10,
                _ => return Err("an escape without four hex digits in lower case"),
            };
            unit = unit << 4 | u32::from(digit);
            self.at += 1;
        }
        Ok(unit)
    }

    /// From -2^63 to 2^64 - 1.
    fn number(&mut self) -> Result<(), &'static str> {
        let most = if self.is_next(b'-') { 1 << 63 } else { u64::MAX };
        let start = self.at;
        let mut number: u64 = 0;
        while let digit @ b'0'..=b'9' = self.peek() {
            let next = number.checked_mul(10).and_then(|tens| tens.checked_add(u64::from(digit - b'0')));
            number = next.filter(|number| *number <= most).ok_or("a number that is too large")?;
            self.at += 1;
        }
        let digits = self.at - start;
        let is_zero = number == 0 && digits == 1 && most == u64::MAX;
        if is_zero || (number > 0 && self.line.get(start) != Some(&b'0')) {
            Ok(())
        } else {
            Err("a number in another spelling")
        }
    }
}

/// The order of `names` is lost.
fn has_twice(names: &mut [&[u8]]) -> bool {
    if names.len() > FEW_NAMES {
        names.sort_unstable();
        return names.windows(2).any(|pair| pair.first() == pair.last());
    }
    // Those with other marks are other names; there is a mark for each of 128.
    let mut marks = 0_u128;
    names.iter().enumerate().any(|(at, name)| {
        let ends = name
            .first()
            .zip(name.last())
            .map_or(0, |(first, last)| first.wrapping_mul(5) ^ last.wrapping_mul(11));
        let mark = 1 << (((name.len() * 3) ^ usize::from(ends)) % 128);
        let is_met = marks & mark != 0 && names.iter().take(at).any(|before| before == name);
        marks |= mark;
        is_met
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &[u8]) -> Result<(), String> {
        read(line).map(drop)
    }

    #[test]
    fn a_name_that_is_there_twice_is_found_among_few_and_many() {
        for count in [2, 3, 63, 64, 65, 66, 500] {
            let names: Vec<_> = (0..count).map(|number| format!("n{number}")).collect();
            let mut all: Vec<_> = names.iter().map(String::as_bytes).collect();
            assert!(!has_twice(&mut all.clone()));
            for at in 0..count {
                let before = std::mem::replace(&mut all[at], names[(at + count / 2) % count].as_bytes());
                assert!(has_twice(&mut all.clone()), "{count} {at}");
                all[at] = before;
            }
        }
        assert!(has_twice(&mut [b"", b"a", b""]));
    }

    #[test]
    fn members_are_as_they_are_spelled() {
        let members = read(br#"{"a":{"b":[1,2]},"c":"\n\"","d":-1,"e":null}"#).unwrap();
        let members: Vec<_> = members
            .iter()
            .map(|(name, value)| (str::from_utf8(name).unwrap(), str::from_utf8(value).unwrap()))
            .collect();
        assert_eq!(members, [("a", r#"{"b":[1,2]}"#), ("c", r#""\n\"""#), ("d", "-1"), ("e", "null")]);
    }

    #[test]
    fn json_has_one_spelling() {
        for right in [
            "{}",
            r#"{"a":[],"b":[{"a":null},{"a":true}],"c":false,"d":""}"#,
            r#"{"a":0,"b":-1,"c":18446744073709551615,"d":-9223372036854775808}"#,
            r#"{"\u0000\u007f\u00e9\ud83d\ude00\"\\\b\f\n\r\t/":1}"#,
        ] {
            assert_eq!(check(right.as_bytes()), Ok(()), "{right}");
        }
        for wrong in [
            "",
            "[]",
            "{} ",
            " {}",
            r#"{"a":1,}"#,
            r#"{"a":[1,]}"#,
            r#"{"a": 1}"#,
            r#"{"a" :1}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"c":1,"b":2}}"#,
            r#"{"a":00}"#,
            r#"{"a":01}"#,
            r#"{"a":-0}"#,
            r#"{"a":-}"#,
            r#"{"a":1.0}"#,
            r#"{"a":1e3}"#,
            r#"{"a":+1}"#,
            r#"{"a":18446744073709551616}"#,
            r#"{"a":-9223372036854775809}"#,
            r#"{"a":NaN}"#,
            r#"{"a":"\u0061"}"#,
            r#"{"a":"\u000a"}"#,
            r#"{"a":"\u00E9"}"#,
            r#"{"a":"\/"}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\ud800\ud800"}"#,
            r#"{"a":"\udc00"}"#,
            r#"{"a":"\u00e"}"#,
            r#"{"a":"x}"#,
            r#"{"a":"\"#,
        ] {
            assert!(check(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn depth_has_an_end() {
        let deep = |levels: usize| format!("{{\"a\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(check(deep(31).as_bytes()), Ok(()));
        assert!(check(deep(32).as_bytes()).is_err());
        assert!(check(deep(30_000).as_bytes()).is_err());
    }
}
