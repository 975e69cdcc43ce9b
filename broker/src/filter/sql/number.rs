//! Texts as floating-point numbers, as `Double.valueOf` reads and `Double.compareTo` orders them.

use std::cmp::Ordering;

use super::Unfit;

/// Blanks around it, a suffix of `f` or `d`, `NaN`, `Infinity` and hexadecimal digits are legal.
pub(super) fn double(text: &str) -> Result<f64, Unfit> {
    let text = text.trim_matches(|c: char| c <= ' ');
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let number = match digits {
        "NaN" => f64::NAN,
        "Infinity" => f64::INFINITY,
        _ => {
            let digits = digits.strip_suffix(['f', 'F', 'd', 'D']).unwrap_or(digits);
            match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
                Some(digits) => hexadecimal(digits)?,
                None => decimal(digits)?,
            }
        }
    };
    Ok(if negative { -number } else { number })
}

/// Rust takes words for numbers, and nothing else that Java does not.
fn decimal(digits: &str) -> Result<f64, Unfit> {
    let is_plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if digits.starts_with(['+', '-']) || !digits.chars().all(is_plain) {
        return Err(Unfit);
    }
    digits.parse().map_err(|_| Unfit)
}

/// `1.8p1`: hexadecimal digits, and the power of two that Java wants behind them.
fn hexadecimal(digits: &str) -> Result<f64, Unfit> {
    let (digits, power) = digits.split_once(['p', 'P']).ok_or(Unfit)?;
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() + part.len() == 0 {
        return Err(Unfit);
    }
    let mut number = 0.0;
    for digit in whole.chars().chain(part.chars()) {
        number = number * 16.0 + f64::from(digit.to_digit(16).ok_or(Unfit)?);
    }
    let power = exponent(power)?.saturating_sub((part.len() as i32).saturating_mul(4));
    if number == 0.0 {
        return Ok(number);
    }
    // In halves: the whole power may be beyond what a number can be.
    let half = power / 2;
    Ok(number * 2_f64.powi(half) * 2_f64.powi(power - half))
}

/// One that is too large for Java too is still large.
fn exponent(text: &str) -> Result<i32, Unfit> {
    const MOST: i32 = 1 << 20;
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(Unfit);
    }
    let number = digits.parse().unwrap_or(MOST).min(MOST);
    Ok(if text.starts_with('-') {
        -number
    } else {
        number
    })
}

/// Zeros have a sign here, and what is no number is the greatest.
pub(super) fn doubles(left: f64, right: f64) -> Ordering {
    match (left.is_nan(), right.is_nan()) {
        (false, false) => left.total_cmp(&right),
        (left, right) => left.cmp(&right),
    }
}
