//! Hours of the day and days of the week, at a fixed distance from UTC or as the clocks of a region show them.

use std::fmt::{self, Write as _};

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::Verdict;

const MINUTES_OF_DAY: u16 = 24 * 60;
const SECONDS_OF_DAY: i64 = 24 * 60 * 60;
/// The widest that clocks are apart from UTC anywhere.
const OFFSET_MINUTES_MAX: i32 = 14 * 60;

/// When a rule applies. All that is named must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::policy) struct Times {
    pub hours: Option<Hours>,
    pub days: Option<Days>,
    pub zone: Zone,
}

/// From one minute of the day up to another, which is no part of it; over midnight if that comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) struct Hours {
    from: Clock,
    to: Clock,
}

/// Minutes since midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::policy) struct Clock(u16);

/// From Monday on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::policy) struct Days([bool; 7]);

/// What clocks show there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::policy) enum Zone {
    /// Seconds east of UTC.
    Fixed(i64),
    /// By its IANA name, with its summer time, from the database in this program: what a host has, or lacks, makes no difference.
    Named(TimeZone),
}

impl Times {
    /// Nobody can say without the moment.
    pub(in crate::policy) fn judge(&self, moment: Option<Timestamp>) -> Verdict {
        let Some(moment) = moment else {
            return Verdict::Unknown("the time of the call is not known".into());
        };
        let local = moment.as_second().saturating_add(self.zone.seconds(moment));
        let minute = local.rem_euclid(SECONDS_OF_DAY) / 60;
        // 1970 began on a Thursday.
        let day = (local.div_euclid(SECONDS_OF_DAY) + 3).rem_euclid(7);
        let day = usize::try_from(day).unwrap_or_default();
        let is_day = self.days.is_none_or(|days| days.0.get(day) == Some(&true));
        if is_day && self.hours.is_none_or(|hours| hours.have(minute)) {
            Verdict::Met
        } else {
            Verdict::NotMet(format!("it is another time than {self}"))
        }
    }
}

impl Hours {
    /// `None`: that is no time at all, or all of it.
    pub(in crate::policy) fn new(from: Clock, to: Clock) -> Option<Self> {
        (from != to && from.0 < MINUTES_OF_DAY && to.0 > 0).then_some(Self { from, to })
    }

    fn have(self, minute: i64) -> bool {
        let (from, to) = (i64::from(self.from.0), i64::from(self.to.0));
        if from < to { (from..to).contains(&minute) } else { minute >= from || minute < to }
    }
}

impl Clock {
    /// `08:00`; `24:00` is the end of the day.
    pub(in crate::policy) fn parse(text: &str) -> Option<Self> {
        let minutes = minutes(text)?;
        (minutes <= MINUTES_OF_DAY).then_some(Self(minutes))
    }
}

impl Days {
    pub(in crate::policy) const NAMES: [(&str, usize); 7] =
        [("mon", 0), ("tue", 1), ("wed", 2), ("thu", 3), ("fri", 4), ("sat", 5), ("sun", 6)];

    pub(in crate::policy) fn add(&mut self, day: usize) {
        if let Some(is_meant) = self.0.get_mut(day) {
            *is_meant = true;
        }
    }
}

impl Zone {
    /// `UTC`, a distance such as `+02:00`, or a region's name such as `Europe/Berlin`, in the database's letters.
    pub(in crate::policy) fn parse(text: &str) -> Option<Self> {
        if text == "UTC" {
            return Some(Self::Fixed(0));
        }
        if is_region(text) {
            let zone = TimeZoneDatabase::bundled().get(text).ok()?;
            return (zone.iana_name() == Some(text)).then_some(Self::Named(zone));
        }
        let (sign, clock) = text.split_at_checked(1)?;
        let minutes = i32::from(minutes(clock)?);
        let minutes = match sign {
            "+" => minutes,
            "-" => -minutes,
            _ => return None,
        };
        (minutes.abs() <= OFFSET_MINUTES_MAX).then_some(Self::Fixed(i64::from(minutes) * 60))
    }

    /// Names that could have been meant.
    pub(in crate::policy) fn known() -> Vec<String> {
        let zones = TimeZoneDatabase::bundled();
        let names = zones.available().map(|name| name.as_str().to_owned());
        names.filter(|name| is_region(name)).collect()
    }

    /// How far its clocks are east of UTC at this moment.
    fn seconds(&self, moment: Timestamp) -> i64 {
        match self {
            Self::Fixed(seconds) => *seconds,
            Self::Named(zone) => zone.to_offset(moment).seconds().into(),
        }
    }
}

/// `Etc/GMT+2` is two hours west of UTC, and `EST` has no summer: such names are not what their readers think.
fn is_region(text: &str) -> bool {
    text.contains('/') && !text.starts_with("Etc/")
}

/// Of `hh:mm`, both with two digits.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |part: &str| {
        let is_plain = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        is_plain.then(|| part.parse::<u16>().ok())?
    };
    let (hours, minutes) = (number(hours)?, number(minutes).filter(|minutes| *minutes < 60)?);
    Some(hours * 60 + minutes)
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = match self {
            Self::Fixed(0) => return f.write_str("UTC"),
            Self::Named(zone) => return f.write_str(zone.iana_name().unwrap_or_default()),
            Self::Fixed(seconds) => *seconds,
        };
        let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(hours) = self.hours {
            write!(f, "{} to {} ", hours.from, hours.to)?;
        }
        if let Some(days) = self.days {
            f.write_str("on ")?;
            for (name, _) in Days::NAMES.iter().filter(|(_, day)| days.0.get(*day) == Some(&true)) {
                write!(f, "{name} ")?;
            }
        }
        f.write_char('(')?;
        self.zone.fmt(f)?;
        f.write_char(')')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(from: &str, to: &str, days: &[usize], zone: &str) -> Times {
        let hours = Hours::new(Clock::parse(from).unwrap(), Clock::parse(to).unwrap());
        let mut of_week = Days::default();
        for day in days {
            of_week.add(*day);
        }
        Times { hours, days: (!days.is_empty()).then_some(of_week), zone: Zone::parse(zone).unwrap() }
    }

    fn is_met(times: &Times, moment: &str) -> bool {
        match times.judge(Some(moment.parse().unwrap())) {
            Verdict::Met => true,
            Verdict::NotMet(_) => false,
            Verdict::Unknown(why) => panic!("{why}"),
        }
    }

    #[test]
    fn hours_begin_at_their_minute_and_end_before_the_last_one_in_their_zone() {
        let office = times("08:00", "18:00", &[0, 1, 2, 3, 4], "+02:00");
        // A Monday.
        for (moment, met) in [
            ("2026-11-23T05:59:59Z", false),
            ("2026-11-23T06:00:00Z", true),
            ("2026-11-23T15:59:59Z", true),
            ("2026-11-23T16:00:00Z", false),
            ("2026-11-22T12:00:00Z", false),
            ("2026-11-27T12:00:00Z", true),
            ("2026-11-28T12:00:00Z", false),
        ] {
            assert_eq!(is_met(&office, moment), met, "{moment}");
        }
        assert_eq!(office.to_string(), "08:00 to 18:00 on mon tue wed thu fri (+02:00)");
    }

    #[test]
    fn hours_may_go_over_midnight_and_the_day_is_that_of_the_moment() {
        let night = times("22:30", "06:00", &[4], "UTC");
        for (moment, met) in [
            ("2026-11-27T22:29:59Z", false),
            ("2026-11-27T22:30:00Z", true),
            ("2026-11-27T00:00:00Z", true),
            ("2026-11-27T05:59:59Z", true),
            ("2026-11-27T06:00:00Z", false),
            ("2026-11-28T00:00:00Z", false),
        ] {
            assert_eq!(is_met(&night, moment), met, "{moment}");
        }
        // The day changes with the zone; and there were days before 1970.
        assert!(is_met(&times("00:00", "24:00", &[], "-11:30"), "2026-11-27T22:29:59Z"));
        let friday = Times { hours: None, ..times("00:00", "01:00", &[4], "+14:00") };
        assert!(is_met(&friday, "2026-11-26T10:00:00Z") && !is_met(&friday, "2026-11-26T09:59:59Z"));
        assert!(is_met(
            &Times { hours: None, ..times("00:00", "01:00", &[2], "UTC") },
            "1969-12-31T23:59:59Z"
        ));
    }

    #[test]
    fn a_call_without_a_moment_is_at_no_time() {
        assert!(matches!(times("00:00", "24:00", &[], "UTC").judge(None), Verdict::Unknown(_)));
    }

    #[test]
    fn times_and_zones_have_one_spelling() {
        for bad in ["8:00", "08:0", "08:60", "24:01", "0800", "08:00:00", "+8:00", "", "\u{0660}8:00"] {
            assert_eq!(Clock::parse(bad), None, "{bad}");
        }
        for bad in ["", "utc", "Z", "02:00", "+2:00", "+14:01", "\u{2212}02:00"] {
            assert_eq!(Zone::parse(bad), None, "{bad}");
        }
        let clock = |text| Clock::parse(text).unwrap();
        for (from, to) in [("08:00", "08:00"), ("24:00", "08:00"), ("08:00", "00:00")] {
            assert_eq!(Hours::new(clock(from), clock(to)), None, "{from} {to}");
        }
    }

    #[test]
    fn a_region_keeps_its_own_summer_time() {
        let at = |times: &Times, moment: &str| times.judge(Some(moment.parse().unwrap())) == Verdict::Met;
        let day = times("08:00", "18:00", &[], "Europe/Berlin");
        for (moment, is) in [
            ("2026-01-15T06:59:59Z", false),
            ("2026-01-15T07:00:00Z", true),
            ("2026-07-15T06:00:00Z", true),
            ("2026-07-15T15:59:59Z", true),
            ("2026-07-15T16:00:00Z", false),
        ] {
            assert_eq!(at(&day, moment), is, "{moment}");
        }
        // In March the clocks go from 02:00 to 03:00: that hour is not there, and what begins in it begins at 03:00.
        let gap = times("02:00", "03:00", &[], "Europe/Berlin");
        for minute in 0..180 {
            let moment: Timestamp = "2026-03-29T00:00:00Z".parse().unwrap();
            let moment = moment + jiff::SignedDuration::from_mins(minute);
            assert_ne!(gap.judge(Some(moment)), Verdict::Met, "{moment}");
        }
        let from_the_gap = times("02:30", "04:00", &[], "Europe/Berlin");
        assert!(!at(&from_the_gap, "2026-03-29T00:59:59Z") && at(&from_the_gap, "2026-03-29T01:00:00Z"));
        // In October the hour from 02:00 on is there twice, and both are meant.
        for (moment, is) in [
            ("2026-10-24T23:59:59Z", false),
            ("2026-10-25T00:00:00Z", true),
            ("2026-10-25T00:59:59Z", true),
            ("2026-10-25T01:00:00Z", true),
            ("2026-10-25T01:59:59Z", true),
            ("2026-10-25T02:00:00Z", false),
        ] {
            assert_eq!(at(&gap, moment), is, "{moment}");
        }
        // The day is the region's; half an hour counts; and the south has its summer in January.
        let friday = times("00:00", "01:00", &[4], "Asia/Kolkata");
        assert!(at(&friday, "2026-11-19T18:30:00Z") && !at(&friday, "2026-11-19T18:29:59Z"));
        let sydney = times("08:00", "09:00", &[], "Australia/Sydney");
        assert!(at(&sydney, "2026-01-14T21:00:00Z") && at(&sydney, "2026-07-14T22:00:00Z"));
    }

    #[test]
    fn a_region_has_one_spelling_and_is_shown_by_it() {
        for good in ["Europe/Berlin", "America/Argentina/Buenos_Aires", "Asia/Kathmandu"] {
            assert_eq!(Zone::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "europe/berlin",
            "Europe/Berlinn",
            "Berlin",
            "EST",
            "CET",
            "Etc/GMT+2",
            "/etc/passwd",
            "../UTC",
            "GMT",
        ] {
            assert_eq!(Zone::parse(bad), None, "{bad}");
        }
        assert!(Zone::known().len() > 300);
    }
}
