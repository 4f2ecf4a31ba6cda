//! Results of tools as servers write them, in which nothing is to be found; the same ones in every run.

use serde_json::{Value, json};

/// What the results hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Prose,
    /// In scripts other than Latin, with accents and typographic marks.
    World,
    /// Records with prices, times, UUIDs and numbers: as structured content.
    Records,
    /// The same as text in which JSON stands, as most servers send it.
    RecordsInText,
    /// Lines with times, addresses and numbers.
    Log,
    Code,
    /// An image.
    Base64,
}

impl Sort {
    pub(crate) const ALL: [Self; 7] =
        [Self::Prose, Self::World, Self::Records, Self::RecordsInText, Self::Log, Self::Code, Self::Base64];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prose => "prose",
            Self::World => "other scripts",
            Self::Records => "records",
            Self::RecordsInText => "records in text",
            Self::Log => "log",
            Self::Code => "code",
            Self::Base64 => "base64",
        }
    }
}

/// The answer to a call, of some `bytes`. `keeps` says of a piece whether it may be a part.
pub(crate) fn result(sort: Sort, bytes: usize, keeps: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut dice = Dice(0x6d63_7067);
    let mut next = || {
        loop {
            let piece = match sort {
                Sort::Prose => prose(&mut dice),
                Sort::World => world(&mut dice),
                Sort::Records | Sort::RecordsInText => record(&mut dice).to_string(),
                Sort::Log => log(&mut dice),
                Sort::Code => code(&mut dice),
                Sort::Base64 => base64(&mut dice),
            };
            if keeps(&piece) {
                return piece;
            }
        }
    };
    let (mut pieces, mut length) = (Vec::new(), 0);
    while length < bytes {
        let piece = next();
        length += json!(piece).to_string().len();
        pieces.push(piece);
    }
    let text = |text: String| json!({ "type": "text", "text": text });
    let result = match sort {
        Sort::Records => {
            let rows: Vec<Value> =
                pieces.iter().map(|row| serde_json::from_str(row).expect("a record")).collect();
            json!({ "content": [], "structuredContent": { "rows": rows } })
        }
        Sort::RecordsInText => json!({ "content": [text(format!("[{}]", pieces.join(",")))] }),
        Sort::Base64 => {
            json!({ "content": [{ "type": "image", "mimeType": "image/png", "data": pieces.concat() }] })
        }
        _ => json!({ "content": [text(pieces.concat())] }),
    };
    json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string().into_bytes()
}

/// `SplitMix64`: a result is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    fn one<'w>(&mut self, words: &[&'w str]) -> &'w str {
        let at = usize::try_from(self.roll()).unwrap_or_default() % words.len();
        words[at]
    }
}

const WORDS: [&str; 40] = [
    "the",
    "order",
    "of",
    "a",
    "customer",
    "was",
    "sent",
    "to",
    "our",
    "warehouse",
    "in",
    "two",
    "parts",
    "because",
    "some",
    "items",
    "were",
    "not",
    "there",
    "yet",
    "and",
    "we",
    "will",
    "write",
    "again",
    "when",
    "they",
    "have",
    "come",
    "back",
    "from",
    "repair",
    "which",
    "takes",
    "about",
    "three",
    "weeks",
    "don't",
    "re-check",
    "invoice",
];

/// A sentence; some have a number or a date.
fn prose(dice: &mut Dice) -> String {
    let words: Vec<&str> = (0..8 + dice.below(12)).map(|_| dice.one(&WORDS)).collect();
    let more = match dice.below(8) {
        0 => format!(" on {} May {}", 1 + dice.below(28), 2000 + dice.below(30)),
        1 => format!(" ({}.{:02} EUR)", dice.below(5000), dice.below(100)),
        2 => format!(" #{}", dice.below(100_000)),
        _ => String::new(),
    };
    let end = if dice.below(5) == 0 { ".\n\n" } else { ". " };
    format!("{}{more}{end}", words.join(" "))
}

const WORLD: [&str; 30] = [
    "Die",
    "Straße",
    "wäre",
    "schöner",
    "wenn",
    "größere",
    "Bäume",
    "da",
    "stünden",
    "«Où",
    "est",
    "passé",
    "l’élève»",
    "São",
    "Paulo",
    "–",
    "Привет",
    "мир",
    "это",
    "длинная",
    "строка",
    "東京",
    "都の",
    "人口は",
    "約です。",
    "안녕하세요",
    "여러분",
    "😀",
    "“quoted”",
    "naïve…",
];

fn world(dice: &mut Dice) -> String {
    let words: Vec<&str> = (0..8 + dice.below(12)).map(|_| dice.one(&WORLD)).collect();
    let number = if dice.below(6) == 0 { format!(" {}", dice.below(10_000)) } else { String::new() };
    format!("{}{number}{}", words.join(" "), if dice.below(5) == 0 { ".\n" } else { ". " })
}

fn uuid(dice: &mut Dice) -> String {
    let (high, low) = (dice.roll(), dice.roll());
    let (a, b, c) = (high >> 32, (high >> 16) & 0xffff, high & 0xfff);
    format!("{a:08x}-{b:04x}-4{c:03x}-a{:03x}-{:012x}", low >> 52, low & 0xffff_ffff_ffff)
}

fn time(dice: &mut Dice) -> String {
    let (month, day, hour) = (1 + dice.below(12), 1 + dice.below(28), dice.below(24));
    let (minute, second, millisecond) = (dice.below(60), dice.below(60), dice.below(1000));
    format!("2026-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

fn number(dice: &mut Dice, end: u32) -> u32 {
    u32::try_from(dice.below(u64::from(end))).unwrap_or_default()
}

fn record(dice: &mut Dice) -> Value {
    json!({
        "id": uuid(dice),
        "number": 1_000_000 + number(dice, 9_000_000),
        "created_at": time(dice),
        "status": dice.one(&["open", "paid", "sent", "returned"]),
        "total": f64::from(number(dice, 1_000_000)) / 100.0,
        "position": [f64::from(number(dice, 180_000_000)) / 1e6, f64::from(number(dice, 90_000_000)) / 1e6],
        "is_gift": dice.below(2) == 1,
        "items": [
            { "sku": format!("SKU-{:06}", dice.below(1_000_000)), "quantity": number(dice, 9), "note": null },
            { "sku": format!("SKU-{:06}", dice.below(1_000_000)), "quantity": number(dice, 9), "note": dice.one(&WORDS) },
        ],
    })
}

fn log(dice: &mut Dice) -> String {
    let address =
        [10, dice.below(256), dice.below(256), dice.below(256)].map(|part| part.to_string()).join(".");
    format!(
        "{} {} [worker-{}] {address}:{} GET /v1/orders/{} {} {}ms id={}\n",
        time(dice),
        dice.one(&["INFO", "WARN", "DEBUG"]),
        dice.below(16),
        1024 + dice.below(60_000),
        dice.below(1_000_000),
        dice.one(&["200", "204", "404", "500"]),
        dice.below(2_000),
        uuid(dice),
    )
}

const CODE: [&str; 12] = [
    "    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {\n",
    "        let mut total = 0;\n",
    "        for (index, part) in parts.iter().enumerate() {\n",
    "            println!(\"{index}: {:?}\\n\", part.name);\n",
    "        if self.count >= 1024 && !self.is_done {\n",
    "            return Err(Error::new(ErrorKind::Other, \"it is full\"));\n",
    "\t\t@property\n",
    "\tdef name(self):\n\t\treturn self._name[0:16]\n",
    "#[derive(Debug, Clone)]\npub struct Entry<'a> { pub key: &'a str, pub value: u64 }\n",
    "// See section 4.2: at most 0x7fff_ffff entries.\n",
    "        }\n    }\n\n",
    "const TABLE: [u32; 4] = [0x9e3779b9, 0x7f4a7c15, 65_537, 1_000_003];\n",
];

fn code(dice: &mut Dice) -> String {
    dice.one(&CODE).to_owned()
}

fn base64(dice: &mut Dice) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u64| char::from(DIGITS[usize::try_from(bits & 63).unwrap_or_default()]);
    (0..32)
        .flat_map(|_| {
            let roll = dice.roll();
            (0..10).map(move |at| digit(roll >> (6 * at)))
        })
        .collect()
}
