//! What several verbs are given, and the notations of their values.

use crate::table::Format;
use clap::Args;
use std::time::Duration;

/// Whom to ask, and how long.
#[derive(Clone, Debug, Args)]
pub(crate) struct Connect {
    /// Name servers, host:port, several separated by semicolons
    #[arg(
        short = 'n',
        long = "namesrv",
        value_name = "NAMESRV[;NAMESRV]",
        env = "NAMESRV_ADDR",
        default_value = "127.0.0.1:9876"
    )]
    pub(crate) name_servers: String,
    /// What one question, or one send with all its attempts, may take: 500ms, 3s, 1m
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// How to print.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Output {
    /// Form of the result
    #[arg(short = 'o', long = "output", value_name = "FORM", value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// `500ms`, `3s`, `2m`, `1h`, `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("give a number and a unit: 500ms, 3s, 2m, 1h, 1d".to_owned()),
    };
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    millis.map(Duration::from_millis).ok_or_else(|| "the number is none, or too large".to_owned())
}

/// `512`, `64k`, `64KiB`, `4MiB`, `1M`: bytes or a count. `k` is 1000, `KiB` is 1024.
pub(crate) fn amount(text: &str) -> Result<u64, String> {
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("give a number, perhaps with k, M, KiB, MiB or GiB behind it".to_owned()),
    };
    let amount = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    amount.ok_or_else(|| "the number is none, or too large".to_owned())
}

/// As [`amount`], and at least 1.
pub(crate) fn positive(text: &str) -> Result<u64, String> {
    match amount(text)? {
        0 => Err("it must be at least 1".to_owned()),
        amount => Ok(amount),
    }
}

/// A point in time, in milliseconds since 1970: `now`, `-15m`, `2026-11-24T15:00:00Z` (also with `+01:00`), or the number.
pub(crate) fn time(text: &str, now: i64) -> Result<i64, String> {
    if text == "now" {
        return Ok(now);
    }
    if let Some(ago) = text.strip_prefix('-') {
        let ago = i64::try_from(duration(ago)?.as_millis()).map_err(|_| "that is too long ago".to_owned())?;
        return Ok(now.saturating_sub(ago));
    }
    text.parse()
        .ok()
        .or_else(|| rfc3339(text))
        .ok_or_else(|| "give first, last, now, -15m, 2026-11-24T15:00:00Z or milliseconds since 1970".to_owned())
}

fn rfc3339(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| {
        text.get(range).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?.parse::<i64>().ok()
    };
    let bytes = text.as_bytes();
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if marks.iter().any(|(at, mark)| bytes.get(*at) != Some(mark)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    let zone = match text.get(19..)? {
        "Z" => 0,
        zone if zone.len() == 6 && bytes[22] == b':' => {
            let offset = number(20..22)? * 60 + number(23..25)?;
            match bytes[19] {
                b'+' => offset,
                b'-' => -offset,
                _ => return None,
            }
        }
        _ => return None,
    };
    // Days since 1970, in years that begin in March (H. Hinnant's calendar algorithms).
    let years = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = years * 365 + years / 4 - years / 100 + years / 400 + day_of_year - 719_468;
    in_range.then_some((((days * 24 + hour) * 60 + minute - zone) * 60 + second) * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_amounts() {
        for (text, millis) in [("500ms", 500), ("3s", 3_000), ("2m", 120_000), ("1d", 86_400_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "3", "s", "-1s", "1.5s", "3 s", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for (text, count) in [("0", 0), ("50k", 50_000), ("64KiB", 65_536), ("4MiB", 4 << 20)] {
            assert_eq!(amount(text), Ok(count), "{text}");
        }
        assert!(["", "k", "4mib", "-1"].iter().all(|text| amount(text).is_err()) && positive("0").is_err());
    }

    #[test]
    fn points_in_time() {
        for (text, millis) in [
            ("now", 1_000_000),
            ("-15m", 100_000),
            ("77", 77),
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T00:00:01Z", 1_709_164_801_000),
            ("2024-02-29T01:00:01+01:00", 1_709_164_801_000),
            ("2000-03-01T00:00:00Z", 951_868_800_000),
        ] {
            assert_eq!(time(text, 1_000_000), Ok(millis), "{text}");
        }
        for text in [
            "yesterday",
            "-15",
            "2024-02-29",
            "2024-13-01T00:00:00Z",
            "2024-02-29T00:00:01",
            "2024-02-29T00:00:01*01:00",
        ] {
            assert!(time(text, 0).is_err(), "{text}");
        }
    }
}
