//! Quantities as Kubernetes writes them (`2Gi`, `0.5`, `500m`), as exact numbers.

/// True for two quantities of the same size.
pub(crate) fn same(one: &str, other: &str) -> bool {
    one == other || millis(one).is_some_and(|size| millis(other) == Some(size))
}

/// True when `one` is known to be more than `other`.
pub(crate) fn more(one: &str, other: &str) -> bool {
    matches!((millis(one), millis(other)), (Some(one), Some(other)) if one > other)
}

/// Thousandths; None for what is finer, for an exponent, and for what is no quantity.
fn millis(quantity: &str) -> Option<u128> {
    const KILO: u128 = 1000;
    const KIBI: u128 = 1024;
    let number = quantity.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = |unit: &str| "kMGTPE".find(unit).map_or(0, |at| at as u32 + 1);
    let factor = match quantity.strip_prefix(number)? {
        "" => KILO,
        "m" => 1,
        "Ki" => KIBI * KILO,
        unit @ ("Mi" | "Gi" | "Ti" | "Pi" | "Ei") => {
            KIBI.pow(power(unit.trim_end_matches('i'))) * KILO
        }
        unit @ ("k" | "M" | "G" | "T" | "P" | "E") => KILO.pow(power(unit)) * KILO,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_u128.checked_pow(fraction.len() as u32)?;
    let scaled = digits.checked_mul(factor)?;
    (scaled % scale == 0).then_some(scaled / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_compare() {
        let table = [
            ("2048Mi", "2Gi", true),
            ("2Gi", "2Gi", true),
            ("2G", "2Gi", false),
            ("1.5Gi", "1536Mi", true),
            ("0.5", "500m", true),
            ("1", "1000m", true),
            ("1e3", "1000", false),
            ("", "0", false),
            ("x", "y", false),
            ("0.0001", "0.0001", true),
            ("8Ei", "9Ei", false),
        ];
        for (one, other, expected) in table {
            assert_eq!(same(one, other), expected, "{one} {other}");
        }
        assert!(more("3Gi", "2048Mi"));
        assert!(!more("2Gi", "2048Mi") && !more("1Gi", "2Gi") && !more("x", "1Gi"));
    }
}
