//! What a witness says to a checkpoint (C2SP `tlog-witness`), by status, type and text.

/// Its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// It signed; these are its lines.
    Signed(&'a str),
    /// The latest one that it signed is of so many records.
    Has(u64),
    /// It signed another one of the same size.
    Another,
    /// What it signed does not lead to this one.
    NoGrowth,
    /// It does not know this trail.
    NoSuchLog,
    /// It does not take the key.
    NoSuchKey,
    /// Nothing that the protocol knows.
    Odd,
}

/// The type of an answer that is a number of records.
const SIZE_TYPE: &str = "text/x.tlog.size";

/// `body` is what came, as text.
pub(super) fn read<'a>(status: u16, content_type: Option<&str>, body: &'a str) -> Said<'a> {
    match status {
        200 => Said::Signed(body),
        409 if content_type.is_some_and(is_size) => size(body).map_or(Said::Odd, Said::Has),
        409 => Said::Another,
        422 => Said::NoGrowth,
        404 => Said::NoSuchLog,
        403 => Said::NoSuchKey,
        _ => Said::Odd,
    }
}

/// Whatever parameters somebody on the way has added.
fn is_size(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(SIZE_TYPE))
}

/// In decimal, in its one spelling, and a newline.
fn size(body: &str) -> Option<u64> {
    let digits = body.strip_suffix('\n')?;
    let size: u64 = digits.parse().ok()?;
    (size.to_string() == digits).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_meaning_and_a_size_has_one_spelling() {
        for (status, content_type, body, said) in [
            (200, None, "\u{2014} w x\n", Said::Signed("\u{2014} w x\n")),
            (409, Some(SIZE_TYPE), "17\n", Said::Has(17)),
            (409, Some(SIZE_TYPE), "0\n", Said::Has(0)),
            (409, Some("Text/X.tlog.size; charset=utf-8"), "17\n", Said::Has(17)),
            (409, Some(SIZE_TYPE), "17", Said::Odd),
            (409, Some(SIZE_TYPE), "+17\n", Said::Odd),
            (409, Some(SIZE_TYPE), "017\n", Said::Odd),
            (409, Some(SIZE_TYPE), "18446744073709551616\n", Said::Odd),
            (409, Some(SIZE_TYPE), "", Said::Odd),
            (409, Some("text/plain"), "17\n", Said::Another),
            (409, None, "", Said::Another),
            (422, None, "", Said::NoGrowth),
            (404, None, "", Said::NoSuchLog),
            (403, None, "", Said::NoSuchKey),
            (400, None, "", Said::Odd),
            (302, None, "", Said::Odd),
            (500, None, "", Said::Odd),
        ] {
            assert_eq!(read(status, content_type, body), said, "{status} {content_type:?} {body:?}");
        }
    }
}
