//! What makes of a good message one that somebody may read in another way.

use super::random::Random;
use super::text::Tree;
use super::values;

/// Changes one thing in the tree.
pub(super) fn bend(tree: &mut Tree, random: &mut Random) {
    let number = random.below(tree.size());
    let Some(place) = tree.at(number) else { return };
    match (place, random.below(10)) {
        (Tree::Object(members), 0 | 1) if !members.is_empty() => {
            let (key, _) = members[random.below(members.len())].clone();
            let at = random.below(members.len() + 1);
            members.insert(at, (key, values::value(random, 1)));
        }
        (Tree::Object(members), 2 | 3) if !members.is_empty() => {
            let at = random.below(members.len());
            let key = values::lookalike(&members[at].0, random);
            if random.chance(50) {
                members[at].0 = key;
            } else {
                members.push((key, values::value(random, 1)));
            }
        }
        (Tree::Object(members), 4) if !members.is_empty() => {
            members.remove(random.below(members.len()));
        }
        (Tree::Object(members), 5 | 6) => {
            let key = values::key(random);
            // Twice now and then: not on purpose here.
            if random.chance(10) || members.iter().all(|(known, _)| *known != key) {
                members.push((key, values::value(random, 2)));
            }
        }
        (Tree::Object(members), 7) if members.len() > 1 => {
            let (one, other) = (random.below(members.len()), random.below(members.len()));
            members.swap(one, other);
        }
        (place, 8) => {
            // As deep as the guard's limit, or as `serde_json`'s, or deeper.
            let levels = random.below(3) * 62 + random.below(6);
            for _ in 0..levels {
                let inner = std::mem::replace(place, Tree::raw("0"));
                *place = Tree::List(vec![inner]);
            }
        }
        (place @ (Tree::Raw(_) | Tree::Text(_) | Tree::List(_)), 0) => {
            *place = Tree::Raw(values::illegal(random));
        }
        (place @ (Tree::Raw(_) | Tree::Text(_)), _) => *place = values::value(random, 1),
        (Tree::List(items), _) => items.push(values::value(random, 1)),
        (place, 9) => *place = values::value(random, 2),
        _ => {}
    }
}

/// Changes the bytes, mostly so that they are no JSON in UTF-8 any more.
pub(super) fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let insert = |bytes: &mut Vec<u8>, at: usize, what: &[u8]| {
        bytes.splice(at..at, what.iter().copied());
    };
    match random.below(12) {
        0 => bytes.truncate(at),
        1 => insert(bytes, 0, b"\xef\xbb\xbf"),
        2 => *bytes = utf16(bytes, true, u16::to_le_bytes),
        3 => *bytes = utf16(bytes, random.chance(50), u16::to_be_bytes),
        4 => {
            let wrong: [&[u8]; 7] = [
                b"\xff",
                b"\xc0\xaf",
                b"\xed\xa0\x80",
                b"\xf8\x88\x80\x80\x80",
                b"\xe2\x80",
                b"\x80",
                b"\xf4\x90\x80\x80",
            ];
            insert(bytes, at, random.pick(&wrong));
        }
        5 => {
            let odd: [&[u8]; 10] =
                [b"\0", b"\x0b", b"\x0c", b"\x1e", b"\x7f", b"//c\n", b"/*c*/", b"#", b",", b"\xc2\xa0"];
            insert(bytes, at, random.pick(&odd));
        }
        6 => {
            let behind: [&[u8]; 8] = [b"{}", b"\0", b",", b"}", b"\n{}", b"null", b"\x1a", b"\xe2\x80\xa8"];
            let end = bytes.len();
            insert(bytes, end, random.pick(&behind));
        }
        7 => {
            let before: [&[u8]; 7] = [b" ", b"\r\n", b"\n\t ", b"\x0c", b"\xc2\x85", b")]}'\n", b"\x1e"];
            insert(bytes, 0, random.pick(&before));
        }
        8 if at < bytes.len() => {
            bytes[at] ^= 1 << random.below(8);
        }
        9 if at < bytes.len() => {
            bytes.remove(at);
        }
        10 => {
            let end = (at + random.below(12)).min(bytes.len());
            let again = bytes[at..end].to_vec();
            insert(bytes, at, &again);
        }
        _ => {
            *bytes = [b"[", bytes.as_slice(), b"]"].concat();
        }
    }
}

fn utf16(bytes: &[u8], mark: bool, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let mark = mark.then_some(0xfeff);
    mark.into_iter().chain(text.encode_utf16()).flat_map(order).collect()
}
