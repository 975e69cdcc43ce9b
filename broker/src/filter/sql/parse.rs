//! The text of an expression as a [`Condition`]: the grammar of Java's `SelectorParser.jj`.
//!
//! As there, the longest expression at the text's start counts, and of what follows only the next
//! word has to be one. Comments are `-- …` up to the line's end and `/* … */`.

use super::{Between, Condition, Expression, In, Order, Place, Search, Value, compare};

/// Of an expression's text.
pub(super) const BYTES_MAX: usize = 4 * 1024;
/// Parts of an expression within each other.
const DEPTH_MAX: usize = 32;

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at character {at} of the expression")]
pub struct BadExpression {
    /// Counted from 1.
    pub at: usize,
    pub what: String,
}

pub fn parse(text: &str) -> Result<Condition, BadExpression> {
    let mut parser = Parser {
        text,
        at: 0,
        next: None,
        depth: 0,
    };
    if text.len() > BYTES_MAX {
        parser.at = BYTES_MAX;
        return Err(parser.bad(format!("more than {BYTES_MAX} bytes")));
    }
    let start = parser.start()?;
    let expression = parser.or()?;
    Ok(Condition(parser.condition((expression, start))?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Not,
    And,
    Or,
    Between,
    In,
    True,
    False,
    Null,
    Is,
    Contains,
    StartsWith,
    EndsWith,
    /// Without its quotes; quotes in it are still double.
    Text(&'a str),
    Decimal(&'a str),
    Float(&'a str),
    Name(&'a str),
    Sign(&'static str),
    End,
}

const KEYWORDS: [(&str, Token<'_>); 12] = [
    ("NOT", Token::Not),
    ("AND", Token::And),
    ("OR", Token::Or),
    ("BETWEEN", Token::Between),
    ("IN", Token::In),
    ("TRUE", Token::True),
    ("FALSE", Token::False),
    ("NULL", Token::Null),
    ("IS", Token::Is),
    ("CONTAINS", Token::Contains),
    ("STARTSWITH", Token::StartsWith),
    ("ENDSWITH", Token::EndsWith),
];

/// Longer ones first.
const SIGNS: [&str; 11] = ["<>", "<=", ">=", "<", ">", "=", "+", "-", "(", ")", ","];

struct Parser<'a> {
    text: &'a str,
    /// Where the next token, or what has not been looked at, begins.
    at: usize,
    /// A token that has been looked at, and where it ends.
    next: Option<(Token<'a>, usize)>,
    depth: usize,
}

type Parsed = Result<Expression, BadExpression>;

/// An expression and where it begins.
type Operand = (Expression, usize);

impl<'a> Parser<'a> {
    fn or(&mut self) -> Parsed {
        self.joined(Token::Or, Self::and, Expression::Or)
    }

    fn and(&mut self) -> Parsed {
        self.joined(Token::And, Self::equality, Expression::And)
    }

    /// One or several conditions with a word between them.
    fn joined(
        &mut self,
        word: Token<'_>,
        one: fn(&mut Self) -> Parsed,
        all: fn(Vec<Expression>) -> Expression,
    ) -> Parsed {
        let start = self.start()?;
        let first = one(self)?;
        if self.peek()? != word {
            return Ok(first);
        }
        let mut conditions = vec![self.condition((first, start))?];
        while self.takes(word)? {
            let start = self.start()?;
            let next = one(self)?;
            conditions.push(self.condition((next, start))?);
        }
        Ok(all(conditions))
    }

    fn equality(&mut self) -> Parsed {
        let start = self.start()?;
        let mut left = self.comparison()?;
        let depth = self.depth;
        loop {
            left = match self.peek()? {
                Token::Sign(sign @ ("=" | "<>")) => {
                    self.take()?;
                    let right = (self.start()?, self.comparison()?);
                    let equal = self.equal((left, start), (right.1, right.0))?;
                    if sign == "=" { equal } else { not(equal) }
                }
                Token::Is => {
                    self.take()?;
                    let negated = self.takes(Token::Not)?;
                    self.expect(Token::Null, "NULL")?;
                    let null = Expression::Equal(Box::new([left, Expression::Null]));
                    if negated { not(null) } else { null }
                }
                _ => break,
            };
            self.deeper()?;
        }
        self.depth = depth;
        Ok(left)
    }

    fn comparison(&mut self) -> Parsed {
        let (mut left, start) = self.operand()?;
        let depth = self.depth;
        loop {
            let negated = self.takes(Token::Not)?;
            left = match self.peek()? {
                Token::Sign("<") if !negated => self.ordered(Order::Less, (left, start))?,
                Token::Sign("<=") if !negated => self.ordered(Order::AtMost, (left, start))?,
                Token::Sign(">") if !negated => self.ordered(Order::Greater, (left, start))?,
                Token::Sign(">=") if !negated => self.ordered(Order::AtLeast, (left, start))?,
                Token::Contains => self.search(Place::Anywhere, left, negated)?,
                Token::StartsWith => self.search(Place::Start, left, negated)?,
                Token::EndsWith => self.search(Place::End, left, negated)?,
                Token::Between => self.between((left, start), negated)?,
                Token::In => self.list((left, start), negated)?,
                _ if negated => return Err(self.bad("NOT has nothing to negate".to_owned())),
                _ => break,
            };
            self.deeper()?;
        }
        self.depth = depth;
        Ok(left)
    }

    fn ordered(&mut self, order: Order, left: Operand) -> Parsed {
        self.take()?;
        let right = self.operand()?;
        self.has_order(&left)?;
        self.has_order(&right)?;
        Ok(Expression::Ordered(order, Box::new([left.0, right.0])))
    }

    fn search(&mut self, at: Place, of: Expression, negated: bool) -> Parsed {
        self.take()?;
        let text = self.text()?;
        Ok(Expression::Search(Box::new(Search {
            of,
            at,
            text,
            negated,
        })))
    }

    fn between(&mut self, (value, start): Operand, negated: bool) -> Parsed {
        self.take()?;
        let low = self.operand()?;
        self.expect(Token::And, "AND")?;
        let high = self.operand()?;
        if !negated
            && let (Some(low), Some(greater)) = (number(&low.0), number(&high.0))
            && compare(greater, low).is_ok_and(std::cmp::Ordering::is_lt)
        {
            return Err(self.bad_at(high.1, "BETWEEN has its greater bound first"));
        }
        let value = (value, start);
        for side in [&value, &low, &high] {
            self.has_order(side)?;
        }
        Ok(Expression::Between(Box::new(Between {
            value: value.0,
            low: low.0,
            high: high.0,
            negated,
        })))
    }

    fn list(&mut self, (left, start): Operand, negated: bool) -> Parsed {
        self.take()?;
        self.expect(Token::Sign("("), "(")?;
        let mut texts = vec![self.text()?];
        while self.takes(Token::Sign(","))? {
            texts.push(self.text()?);
        }
        self.expect(Token::Sign(")"), ")")?;
        let Expression::Property(property) = left else {
            return Err(self.bad_at(start, "IN has no property before it"));
        };
        Ok(Expression::In(Box::new(In {
            property,
            texts,
            negated,
        })))
    }

    /// Where the next token begins.
    fn start(&mut self) -> Result<usize, BadExpression> {
        self.peek()?;
        Ok(self.at)
    }

    fn operand(&mut self) -> Result<Operand, BadExpression> {
        let start = self.start()?;
        Ok((self.unary()?, start))
    }

    fn unary(&mut self) -> Parsed {
        let depth = self.depth;
        self.deeper()?;
        let unary = match self.peek()? {
            Token::Sign("+") => {
                self.take()?;
                self.unary()?
            }
            Token::Sign("-") => {
                self.take()?;
                Expression::Negative(Box::new(self.unary()?))
            }
            Token::Not => {
                self.take()?;
                let of = self.operand()?;
                not(self.condition(of)?)
            }
            _ => self.primary()?,
        };
        self.depth = depth;
        Ok(unary)
    }

    fn primary(&mut self) -> Parsed {
        let literal = match self.peek()? {
            Token::Text(_) => return Ok(Expression::Text(self.text()?)),
            Token::Decimal(digits) => self.decimal(digits)?,
            Token::Float(digits) => self.float(digits)?,
            Token::True => Expression::Bool(true),
            Token::False => Expression::Bool(false),
            Token::Null => Expression::Null,
            Token::Name(name) => Expression::Property(name.into()),
            Token::Sign("(") => {
                self.take()?;
                let inner = self.or()?;
                self.expect(Token::Sign(")"), ")")?;
                return Ok(inner);
            }
            _ => return Err(self.bad("no value".to_owned())),
        };
        self.take()?;
        Ok(literal)
    }

    fn decimal(&self, digits: &str) -> Parsed {
        let digits = digits.trim_end_matches(['l', 'L']);
        let Ok(number) = digits.parse::<i64>() else {
            return Err(self.bad(format!("{digits} is too large")));
        };
        let small = i32::try_from(number);
        Ok(small.map_or(Expression::Long(number), Expression::Int))
    }

    /// Zero is none, as in Java.
    fn float(&self, digits: &str) -> Parsed {
        match digits.parse::<f64>() {
            Ok(number) if number.is_finite() && number > 0.0 => Ok(Expression::Double(number)),
            _ => Err(self.bad(format!("{digits} is too large or too small"))),
        }
    }

    fn text(&mut self) -> Result<Box<str>, BadExpression> {
        let Token::Text(text) = self.peek()? else {
            return Err(self.bad("no 'text'".to_owned()));
        };
        self.take()?;
        Ok(text.replace("''", "'").into())
    }

    fn equal(&self, (left, left_at): Operand, (right, right_at): Operand) -> Parsed {
        for (side, at) in [(&left, left_at), (&right, right_at)] {
            if *side == Expression::Null {
                return Err(self.bad_at(at, "NULL can't be compared; IS NULL can be asked"));
            }
        }
        let is_literal = matches!(right, Expression::Text(_)) || number(&right).is_some();
        if matches!(left, Expression::Bool(_)) && is_literal {
            return Err(self.bad_at(right_at, "TRUE and FALSE can't be compared with this"));
        }
        Ok(Expression::Equal(Box::new([left, right])))
    }

    fn has_order(&self, (side, start): &Operand) -> Result<(), BadExpression> {
        if matches!(side, Expression::Text(_)) || side.is_condition() {
            return Err(self.bad_at(*start, "only numbers have an order"));
        }
        Ok(())
    }

    /// Of a property whether it is true, which a text never is.
    fn condition(&self, (expression, start): Operand) -> Parsed {
        match expression {
            Expression::Property(name) => Ok(Expression::Cast(name)),
            condition if condition.is_condition() => Ok(condition),
            _ => Err(self.bad_at(start, "a value where a condition should be")),
        }
    }

    fn deeper(&mut self) -> Result<(), BadExpression> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let what = format!("more than {DEPTH_MAX} parts within each other");
            return Err(self.bad(what));
        }
        Ok(())
    }

    fn peek(&mut self) -> Result<Token<'a>, BadExpression> {
        if let Some((token, _)) = self.next {
            return Ok(token);
        }
        self.skip()?;
        let (token, _) = *self.next.insert(self.scan()?);
        Ok(token)
    }

    fn take(&mut self) -> Result<(), BadExpression> {
        self.peek()?;
        if let Some((_, end)) = self.next.take() {
            self.at = end;
        }
        Ok(())
    }

    fn takes(&mut self, token: Token<'_>) -> Result<bool, BadExpression> {
        let is_next = self.peek()? == token;
        if is_next {
            self.take()?;
        }
        Ok(is_next)
    }

    fn expect(&mut self, token: Token<'_>, shown: &str) -> Result<(), BadExpression> {
        if self.takes(token)? {
            return Ok(());
        }
        Err(self.bad(format!("no {shown}")))
    }

    /// Passes blanks and comments over.
    fn skip(&mut self) -> Result<(), BadExpression> {
        loop {
            let rest = self.rest();
            let blank = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
            self.at += rest.len() - blank.len();
            let comment = if blank.starts_with("--") {
                // Without an end of its line it is two signs.
                blank.find(['\n', '\r']).map(|end| end + 1)
            } else if let Some(inner) = blank.strip_prefix("/*") {
                let Some(end) = inner.find("*/") else {
                    return Err(self.bad("a comment without an end".to_owned()));
                };
                Some(end + 4)
            } else {
                None
            };
            match comment {
                Some(bytes) => self.at += bytes,
                None => return Ok(()),
            }
        }
    }

    /// The longest token at the rest's start, and where it ends.
    fn scan(&self) -> Result<(Token<'a>, usize), BadExpression> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok((Token::End, self.at));
        };
        let (token, bytes) = if first == '\'' {
            self.quoted(rest)?
        } else if is_of_name(first) && !first.is_ascii_digit() {
            let name = prefix(rest, is_of_name);
            let mut keywords = KEYWORDS.iter();
            let keyword = keywords.find(|(word, _)| word.eq_ignore_ascii_case(name));
            let token = keyword.map_or(Token::Name(name), |(_, token)| *token);
            (token, name.len())
        } else if let Some(number) = digits(rest) {
            number
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            (Token::Sign(sign), sign.len())
        } else {
            return Err(self.bad(format!("{first:?} has no meaning")));
        };
        Ok((token, self.at + bytes))
    }

    fn quoted(&self, rest: &'a str) -> Result<(Token<'a>, usize), BadExpression> {
        let mut end = 1;
        loop {
            let open = rest.get(end..).unwrap_or_default();
            let Some(quote) = open.find('\'') else {
                if end == 1 {
                    return Err(self.bad("a text without an end".to_owned()));
                }
                // What looked like a doubled quote is an end and a beginning.
                end -= 1;
                break;
            };
            end += quote + 1;
            if !rest.get(end..).unwrap_or_default().starts_with('\'') {
                break;
            }
            end += 1;
        }
        let text = rest.get(1..end - 1).unwrap_or_default();
        Ok((Token::Text(text), end))
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// What is wrong with what comes next.
    fn bad(&self, what: String) -> BadExpression {
        self.bad_at(self.at, what)
    }

    fn bad_at(&self, start: usize, what: impl Into<String>) -> BadExpression {
        let before = self.text.char_indices();
        let at = before.take_while(|(at, _)| *at < start).count() + 1;
        let what = what.into();
        BadExpression { at, what }
    }
}

impl Expression {
    /// Whether it is true, false or neither for a message.
    fn is_condition(&self) -> bool {
        match self {
            Self::Int(_)
            | Self::Long(_)
            | Self::Double(_)
            | Self::Text(_)
            | Self::Property(_)
            | Self::Negative(_) => false,
            Self::Null
            | Self::Bool(_)
            | Self::Cast(_)
            | Self::Not(_)
            | Self::And(_)
            | Self::Or(_)
            | Self::Equal(_)
            | Self::Ordered(..)
            | Self::Between(_)
            | Self::Search(_)
            | Self::In(_) => true,
        }
    }
}

fn not(of: Expression) -> Expression {
    Expression::Not(Box::new(of))
}

fn number(literal: &Expression) -> Option<Value<'static>> {
    match literal {
        Expression::Int(number) => Some(Value::Int(*number)),
        Expression::Long(number) => Some(Value::Long(*number)),
        Expression::Double(number) => Some(Value::Double(*number)),
        _ => None,
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$')
}

fn prefix(text: &str, of: fn(char) -> bool) -> &str {
    let end = text.find(|c| !of(c)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// A number at the start: `5`, `5L`, `5.`, `.5`, `5e3`. One with a leading zero is the zero alone,
/// unless it has a point or an exponent.
fn digits(text: &str) -> Option<(Token<'_>, usize)> {
    let count = |text: &str| prefix(text, |c| c.is_ascii_digit()).len();
    let whole = count(text);
    let rest = text.get(whole..).unwrap_or_default();
    let part = rest.strip_prefix('.').map(count);
    let with_point = part.filter(|part| whole + part > 0);
    let end = whole + with_point.map_or(0, |part| 1 + part);
    let power = text.get(end..).unwrap_or_default();
    let power = power.strip_prefix(['e', 'E']).and_then(|power| {
        let digits = power.strip_prefix(['+', '-']).unwrap_or(power);
        let bytes = power.len() - digits.len() + count(digits);
        (end > 0 && count(digits) > 0).then_some(1 + bytes)
    });
    if with_point.is_some() || power.is_some() {
        let end = end + power.unwrap_or(0);
        return Some((Token::Float(text.get(..end)?), end));
    }
    let end = match text.as_bytes().first()? {
        b'0' => 1,
        b'1'..=b'9' => whole + usize::from(rest.starts_with(['l', 'L'])),
        _ => return None,
    };
    Some((Token::Decimal(text.get(..end)?), end))
}
