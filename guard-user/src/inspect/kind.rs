//! What is looked for.

use serde::Serialize;

/// A kind of thing that is found in texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Email,
    Phone,
    Card,
    Iban,
    NationalId,
    Secret,
}

/// Some of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Kinds(u8);

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Email, Self::Phone, Self::Card, Self::Iban, Self::NationalId, Self::Secret];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Phone => "phone",
            Self::Card => "card",
            Self::Iban => "iban",
            Self::NationalId => "national_id",
            Self::Secret => "secret",
        }
    }

    /// Its place in [`Kind::ALL`].
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|kind| *kind == self).unwrap_or_default()
    }

    /// What says more about a thing comes first.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Secret => 0,
            Self::Email => 1,
            Self::Iban => 2,
            Self::Card => 3,
            Self::NationalId => 4,
            Self::Phone => 5,
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Email => 1,
            Self::Phone => 1 << 1,
            Self::Card => 1 << 2,
            Self::Iban => 1 << 3,
            Self::NationalId => 1 << 4,
            Self::Secret => 1 << 5,
        }
    }
}

impl Kinds {
    pub const ALL: Self = Self(0b11_1111);

    /// These.
    pub const fn of(kinds: &[Kind]) -> Self {
        let (mut all, mut rest) = (0, kinds);
        while let [first, more @ ..] = rest {
            all |= first.bit();
            rest = more;
        }
        Self(all)
    }

    pub fn has(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }

    pub fn has_any(self, of: Self) -> bool {
        self.0 & of.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub fn with(self, kind: Kind) -> Self {
        Self(self.0 | kind.bit())
    }

    #[must_use]
    pub fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    #[must_use]
    pub fn without(self, kind: Kind) -> Self {
        Self(self.0 & !kind.bit())
    }

    #[must_use]
    pub fn of_both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub fn each(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| self.has(*kind))
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::default(), Self::with)
    }
}
