//! A URL alone, or a mapping with the URL in it. An untagged enum would hide what is wrong with either.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};

use super::{HttpsUrl, JwksUrl};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapping {
    url: HttpsUrl,
    ca_file: Option<PathBuf>,
    #[serde(default = "refresh_seconds")]
    refresh_seconds: u32,
    #[serde(default = "stale_seconds")]
    stale_seconds: u32,
}

pub(super) struct JwksUrlVisitor;

impl<'de> Visitor<'de> for JwksUrlVisitor {
    type Value = JwksUrl;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an https URL, or a mapping with `url`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<JwksUrl, E> {
        let url = HttpsUrl::parse(text).map_err(E::custom)?;
        Ok(JwksUrl { url, ca_file: None, refresh_seconds: refresh_seconds(), stale_seconds: stale_seconds() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<JwksUrl, A::Error> {
        let Mapping { url, ca_file, refresh_seconds, stale_seconds } =
            Mapping::deserialize(MapAccessDeserializer::new(map))?;
        Ok(JwksUrl { url, ca_file, refresh_seconds, stale_seconds })
    }
}

fn refresh_seconds() -> u32 {
    300
}

fn stale_seconds() -> u32 {
    3600
}
