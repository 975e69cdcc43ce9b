//! What each delay level means, as text and in ms.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt;
use std::str::FromStr;

pub(crate) const LEVELS_MAX: usize = 64;

/// The delay of each level, in ms: `messageDelayLevel`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels(pub Vec<i64>);

impl Default for Levels {
    fn default() -> Self {
        const SECONDS: [i64; 18] = [
            1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1_200, 1_800, 3_600,
            7_200,
        ];
        Self(SECONDS.map(|seconds| seconds * 1_000).into())
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, ms) in self.0.iter().enumerate() {
            let units = [(86_400_000, 'd'), (3_600_000, 'h'), (60_000, 'm')];
            let fits = units
                .into_iter()
                .find(|(unit, _)| *ms > 0 && ms % unit == 0);
            let (unit, letter) = fits.unwrap_or((1_000, 's'));
            let space = if at == 0 { "" } else { " " };
            write!(f, "{space}{}{letter}", ms / unit)?;
        }
        Ok(())
    }
}

impl FromStr for Levels {
    type Err = String;

    /// Reads `1s 5m 2h 1d`.
    fn from_str(text: &str) -> Result<Self, String> {
        let level = |word: &str| {
            let unit = match word.chars().next_back()? {
                's' => 1_000,
                'm' => 60_000,
                'h' => 3_600_000,
                'd' => 86_400_000,
                _ => return None,
            };
            let count: u32 = word.get(..word.len() - 1)?.parse().ok()?;
            Some(i64::from(count) * unit)
        };
        let levels = text.split_ascii_whitespace().map(|word| {
            level(word).ok_or_else(|| format!("{word:?} is no number with one of s, m, h and d"))
        });
        let levels: Vec<i64> = levels.collect::<Result<_, _>>()?;
        if levels.is_empty() || levels.len() > LEVELS_MAX {
            return Err(format!("{} levels, not 1 to {LEVELS_MAX}", levels.len()));
        }
        Ok(Self(levels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_java_writes_them() {
        for text in [
            "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h",
            "0s 90s 2d",
        ] {
            let levels: Levels = text.parse().expect(text);
            assert_eq!(levels.to_string(), text);
        }
        let java = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";
        assert_eq!(java.parse(), Ok(Levels::default()));
        assert_eq!("2d".parse(), Ok(Levels(vec![172_800_000])));
        for (text, expect) in [
            ("", "0 levels, not 1 to 64"),
            ("1s 5", "\"5\" is no number with one of s, m, h and d"),
            ("s", "\"s\" is no number"),
            ("-1s", "\"-1s\" is no number"),
            ("1ö", "\"1ö\" is no number"),
        ] {
            let error = text.parse::<Levels>().expect_err(text);
            assert!(error.starts_with(expect), "{error}");
        }
        assert!("1s ".repeat(65).parse::<Levels>().is_err());
    }
}
