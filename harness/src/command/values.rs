//! Values as people write them on a command line: sizes (`64k`, `1M`), times (`10s`, `500ms`),
//! lists (`1,2,4`) and doubling ranges (`1k..16M`).

use std::time::Duration;

use crate::error::Error;

/// The error for a name that is none of those known.
pub(super) fn unknown(
    flag: &'static str,
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'static str>,
) -> Error {
    Error::Argument {
        flag,
        problem: format!("there is no {what} `{name}`"),
        remedy: format!("write one of {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// A number with an optional `k` (1000), `M` (1000 k) or `G` (1000 M).
///
/// # Errors
/// [`Error::Argument`] naming `flag`.
pub fn size(flag: &'static str, word: &str) -> Result<usize, Error> {
    let (digits, factor) = match word.char_indices().last() {
        Some((at, 'k' | 'K')) => (&word[..at], 1_000),
        Some((at, 'm' | 'M')) => (&word[..at], 1_000_000),
        Some((at, 'g' | 'G')) => (&word[..at], 1_000_000_000),
        _ => (word, 1),
    };
    digits
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| Error::Argument {
            flag,
            problem: format!("`{word}` is no size"),
            remedy: "write a whole number, such as 64000, 64k or 1M".to_owned(),
        })
}

/// Sizes and doubling ranges: `1k..16M` is 1k, 2k, 4k … up to 16M, and 16M itself.
///
/// # Errors
/// [`Error::Argument`] naming `flag`; a range upside down is one.
pub fn sizes(flag: &'static str, words: &[String]) -> Result<Vec<usize>, Error> {
    let mut all = Vec::new();
    for word in words {
        let Some((first, last)) = word.split_once("..") else {
            all.push(size(flag, word)?);
            continue;
        };
        let (first, last) = (size(flag, first)?, size(flag, last)?);
        if first == 0 || first > last {
            return Err(Error::Argument {
                flag,
                problem: format!("the range `{word}` has nothing in it"),
                remedy: "write the smaller number first, from 1 on, such as 1k..16M".to_owned(),
            });
        }
        let doubling = std::iter::successors(Some(first), |&n| n.checked_mul(2));
        all.extend(doubling.take_while(|&n| n < last));
        all.push(last);
    }
    Ok(all)
}

/// A time: `10s`, `500ms`, `2m`, `50us`. More than nothing, at most an hour.
///
/// # Errors
/// [`Error::Argument`] naming `flag`.
pub fn duration(flag: &'static str, word: &str) -> Result<Duration, Error> {
    let unit_at = word
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(word.len());
    let (digits, unit) = word.split_at(unit_at);
    let seconds = match unit {
        "us" => Some(1e-6),
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        "m" | "min" => Some(60.0),
        _ => None,
    };
    seconds
        .and_then(|seconds| Some(digits.parse::<f64>().ok()? * seconds))
        .filter(|&seconds| seconds > 0.0 && seconds <= 3600.0)
        .map(Duration::from_secs_f64)
        .ok_or_else(|| Error::Argument {
            flag,
            problem: format!("`{word}` is no time that can be waited for"),
            remedy: "write a number and us, ms, s or m, up to an hour, such as 500ms or 10s"
                .to_owned(),
        })
}

/// A share in per cent: `10%` is 0.1. From 0 to 1000 %.
///
/// # Errors
/// [`Error::Argument`] naming `flag`.
pub fn percent(flag: &'static str, word: &str) -> Result<f64, Error> {
    word.strip_suffix('%')
        .and_then(|digits| digits.parse::<f64>().ok())
        .filter(|percent| (0.0..=1000.0).contains(percent))
        .map(|percent| percent / 100.0)
        .ok_or_else(|| Error::Argument {
            flag,
            problem: format!("`{word}` is no share in per cent"),
            remedy: "write a number from 0 to 1000 and %, such as 10% or 2.5%".to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Result<Vec<usize>, Error> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        sizes("--connections", &words)
    }

    #[test]
    fn sizes_have_suffixes_and_ranges_double() {
        assert_eq!(list(&["7", "64k", "1M"]).unwrap(), [7, 64_000, 1_000_000]);
        assert_eq!(list(&["1k..4k"]).unwrap(), [1000, 2000, 4000]);
        assert_eq!(list(&["1k..5k"]).unwrap(), [1000, 2000, 4000, 5000]);
        assert_eq!(list(&["3..3"]).unwrap(), [3]);
    }

    #[test]
    fn what_is_no_size_is_an_error_that_quotes_it() {
        for bad in [
            "",
            "k",
            "1.5k",
            "-1",
            "99999999999999999999",
            "9999999999999G",
            "4k..1k",
            "0..8",
        ] {
            let said = list(&[bad]).unwrap_err().to_string();
            assert!(said.contains(&format!("`{bad}`")), "{said}");
            assert!(said.starts_with("--connections:"), "{said}");
        }
    }

    #[test]
    fn times_have_units() {
        let time = |word| duration("--duration", word).unwrap();
        assert_eq!(time("10s"), Duration::from_secs(10));
        assert_eq!(time("500ms"), Duration::from_millis(500));
        assert_eq!(time("1.5m"), Duration::from_secs(90));
        for bad in ["", "10", "s", "-1s", "0s", "1h", "2000m", "nans", "..s"] {
            assert!(duration("--duration", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_are_in_per_cent() {
        assert_eq!(percent("--threshold", "10%").unwrap(), 0.1);
        assert_eq!(percent("--threshold", "0%").unwrap(), 0.0);
        for bad in ["", "%", "10", "-1%", "nan%", "inf%", "2000%", "1e4%"] {
            let said = percent("--threshold", bad).unwrap_err().to_string();
            assert!(said.contains(&format!("`{bad}`")), "{said}");
        }
    }
}
