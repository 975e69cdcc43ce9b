//! SQL92 on properties, with the rules of Java's broker (`filter/expression/*.java`).
//!
//! A property is a text, or nothing where a message does not have it. What compares a number with
//! a text reads the text as a number of the same kind; a text that is none makes the whole
//! expression unfit for the message, which is then not matched, whatever else is true of it. Truth
//! has three values: AND and OR are Kleene's.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod number;
mod parse;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use number::{double, doubles};
pub use parse::{BadExpression, parse};

/// An expression that has a truth for every message.
#[derive(Debug, PartialEq)]
pub struct Condition(Expression);

/// A part of a condition.
#[derive(Debug, PartialEq)]
enum Expression {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(Box<str>),
    Property(Box<str>),
    Negative(Box<Expression>),
    /// A property as a condition: never true, since properties are texts.
    Cast(Box<str>),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Equal(Box<[Expression; 2]>),
    Ordered(Order, Box<[Expression; 2]>),
    Between(Box<Between>),
    Search(Box<Search>),
    In(Box<In>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Less,
    AtMost,
    Greater,
    AtLeast,
}

#[derive(Debug, PartialEq)]
struct Search {
    of: Expression,
    at: Place,
    text: Box<str>,
    negated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Anywhere,
    Start,
    End,
}

#[derive(Debug, PartialEq, Eq)]
struct In {
    property: Box<str>,
    texts: Vec<Box<str>>,
    negated: bool,
}

#[derive(Debug, PartialEq)]
struct Between {
    value: Expression,
    low: Expression,
    high: Expression,
    negated: bool,
}

/// The expression can't be applied to a message: a text is compared as the number that it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfit;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Value<'a> {
    Bool(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(&'a str),
}

/// A message's property by its name.
type Properties<'m, 'p> = &'p dyn Fn(&str) -> Option<&'m str>;

impl Condition {
    /// Whether a message is wanted.
    pub fn matches<'m>(&'m self, properties: Properties<'m, '_>) -> bool {
        self.truth(properties) == Ok(Some(true))
    }

    /// True, false or neither.
    pub fn truth<'m>(&'m self, properties: Properties<'m, '_>) -> Result<Option<bool>, Unfit> {
        self.0.truth(properties)
    }
}

impl Expression {
    /// Of an expression that is a condition; of all others, nothing.
    fn truth<'m>(&'m self, properties: Properties<'m, '_>) -> Result<Option<bool>, Unfit> {
        match self.value(properties)? {
            Some(Value::Bool(truth)) => Ok(Some(truth)),
            _ => Ok(None),
        }
    }

    fn value<'m>(&'m self, properties: Properties<'m, '_>) -> Result<Option<Value<'m>>, Unfit> {
        let truth = match self {
            Self::Null => None,
            Self::Bool(truth) => Some(*truth),
            Self::Int(number) => return Ok(Some(Value::Int(*number))),
            Self::Long(number) => return Ok(Some(Value::Long(*number))),
            Self::Double(number) => return Ok(Some(Value::Double(*number))),
            Self::Text(text) => return Ok(Some(Value::Text(text))),
            Self::Property(name) => return Ok(properties(name).map(Value::Text)),
            Self::Negative(of) => return Ok(of.value(properties)?.and_then(Value::negative)),
            Self::Cast(name) => properties(name).map(|_| false),
            Self::Not(of) => of.truth(properties)?.map(|truth| !truth),
            Self::And(all) => joined(all, properties, false)?,
            Self::Or(all) => joined(all, properties, true)?,
            Self::Equal(sides) => equal(sides, properties)?,
            Self::Ordered(order, sides) => ordered(*order, sides, properties)?,
            Self::Between(between) => between.holds(properties)?,
            Self::Search(search) => Some(search.found(properties)?),
            Self::In(list) => list.holds(properties),
        };
        Ok(truth.map(Value::Bool))
    }
}

/// AND (`decides` is false) or OR (true): the first that decides ends it.
fn joined<'m>(
    all: &'m [Expression],
    properties: Properties<'m, '_>,
    decides: bool,
) -> Result<Option<bool>, Unfit> {
    let mut joined = Some(!decides);
    for one in all {
        match one.truth(properties)? {
            Some(truth) if truth == decides => return Ok(Some(decides)),
            Some(_) => {}
            None => joined = None,
        }
    }
    Ok(joined)
}

/// Nothing equals nothing; of two of which one is nothing, it counts which.
fn equal<'m>(
    [left, right]: &'m [Expression; 2],
    properties: Properties<'m, '_>,
) -> Result<Option<bool>, Unfit> {
    match (left.value(properties)?, right.value(properties)?) {
        (None, None) => Ok(Some(true)),
        (None, Some(_)) => Ok(None),
        (Some(_), None) => Ok(Some(false)),
        (Some(left), Some(right)) => Ok(Some(compare(left, right)? == Ordering::Equal)),
    }
}

fn ordered<'m>(
    order: Order,
    [left, right]: &'m [Expression; 2],
    properties: Properties<'m, '_>,
) -> Result<Option<bool>, Unfit> {
    in_order(order, left.value(properties)?, right, properties)
}

/// What stands on the left is evaluated already; without it the right side is not.
fn in_order<'m>(
    order: Order,
    left: Option<Value<'m>>,
    right: &'m Expression,
    properties: Properties<'m, '_>,
) -> Result<Option<bool>, Unfit> {
    let Some(left) = left else {
        return Ok(None);
    };
    let Some(right) = right.value(properties)? else {
        return Ok(None);
    };
    let compared = match (left, right) {
        (Value::Text(left), Value::Text(right)) => doubles(double(left)?, double(right)?),
        _ => compare(left, right)?,
    };
    Ok(Some(match order {
        Order::Less => compared.is_lt(),
        Order::AtMost => compared.is_le(),
        Order::Greater => compared.is_gt(),
        Order::AtLeast => compared.is_ge(),
    }))
}

impl Between {
    /// `low <= value AND value <= high`, or `value < low OR value > high`. The value is evaluated
    /// once: one that holds others of its kind would else cost twice as much with each.
    fn holds<'m>(&'m self, properties: Properties<'m, '_>) -> Result<Option<bool>, Unfit> {
        let value = self.value.value(properties)?;
        let (at_low, at_high) = if self.negated {
            (Order::Less, Order::Greater)
        } else {
            (Order::AtLeast, Order::AtMost)
        };
        let decides = Some(self.negated);
        let low = in_order(at_low, value, &self.low, properties)?;
        if low == decides {
            return Ok(decides);
        }
        let high = in_order(at_high, value, &self.high, properties)?;
        if high == decides {
            return Ok(decides);
        }
        Ok(low.and(high))
    }
}

impl Value<'_> {
    fn negative(self) -> Option<Self> {
        match self {
            Self::Int(number) => Some(Self::Int(number.wrapping_neg())),
            Self::Long(number) => Some(Self::Long(number.wrapping_neg())),
            Self::Double(number) => Some(Self::Double(-number)),
            Self::Bool(_) | Self::Text(_) => None,
        }
    }
}

/// As `ComparisonExpression.__compare`: kinds that have nothing in common are in no order, for
/// which it has "less".
fn compare(left: Value<'_>, right: Value<'_>) -> Result<Ordering, Unfit> {
    use Value::{Bool, Double, Int, Long, Text};
    let int = |text: &str| text.parse::<i32>().map_err(|_| Unfit);
    let long = |text: &str| text.parse::<i64>().map_err(|_| Unfit);
    Ok(match (left, right) {
        (Bool(left), Bool(right)) => left.cmp(&right),
        (Text(left), Text(right)) => left.cmp(right),
        (Int(left), Int(right)) => left.cmp(&right),
        (Long(left), Long(right)) => left.cmp(&right),
        (Double(left), Double(right)) => doubles(left, right),
        (Int(left), Long(right)) => i64::from(left).cmp(&right),
        (Long(left), Int(right)) => left.cmp(&i64::from(right)),
        (Int(left), Double(right)) => doubles(f64::from(left), right),
        (Double(left), Int(right)) => doubles(left, f64::from(right)),
        (Long(left), Double(right)) => doubles(left as f64, right),
        (Double(left), Long(right)) => doubles(left, right as f64),
        (Text(left), Int(right)) => int(left)?.cmp(&right),
        (Int(left), Text(right)) => left.cmp(&int(right)?),
        (Text(left), Long(right)) => long(left)?.cmp(&right),
        (Long(left), Text(right)) => left.cmp(&long(right)?),
        (Text(left), Double(right)) => doubles(double(left)?, right),
        (Double(left), Text(right)) => doubles(left, double(right)?),
        (Text(left), Bool(right)) => left.eq_ignore_ascii_case("true").cmp(&right),
        // Java casts the wrong one of the two.
        (Bool(_), Text(_)) => return Err(Unfit),
        (Bool(_), Int(_) | Long(_) | Double(_)) | (Int(_) | Long(_) | Double(_), Bool(_)) => {
            Ordering::Less
        }
    })
}

impl Search {
    /// Never in what is no text, and never for an empty text, negated or not.
    fn found<'m>(&'m self, properties: Properties<'m, '_>) -> Result<bool, Unfit> {
        if self.text.is_empty() {
            return Ok(false);
        }
        let Some(Value::Text(text)) = self.of.value(properties)? else {
            return Ok(false);
        };
        let searched = &*self.text;
        let found = match self.at {
            Place::Anywhere => text.contains(searched),
            Place::Start => text.starts_with(searched),
            Place::End => text.ends_with(searched),
        };
        Ok(found != self.negated)
    }
}

impl In {
    fn holds(&self, properties: Properties<'_, '_>) -> Option<bool> {
        let text = properties(&self.property)?;
        Some(self.texts.iter().any(|one| **one == *text) != self.negated)
    }
}
