//! One line of the file: read, checked, and written as JSON.

use std::fmt;

pub struct Order {
    pub sku: String,
    quantity: u32,
    cents: u64,
}

/// Why a line is none.
pub enum Problem {
    Fields(usize),
    Sku,
    Quantity,
    Price,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Fields(count) => write!(out, "{count} fields instead of 3"),
            Problem::Sku => out.write_str("a SKU is letters, digits and '-'"),
            Problem::Quantity => out.write_str("a quantity is 1 to 10000"),
            Problem::Price => out.write_str("a price is euros, such as 3.50"),
        }
    }
}

/// "3.50", "3.5" and "3" are cents; floating point is not for money.
fn cents_of(text: &str) -> Option<u64> {
    let (euros, rest) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|c| c.is_ascii_digit());
    if euros.is_empty() || euros.len() > 9 || !is_number(euros) || rest.len() > 2 || !is_number(rest) {
        return None;
    }
    let cents: u64 = format!("{rest:0<2}").parse().ok()?;
    Some(euros.parse::<u64>().ok()? * 100 + cents)
}

impl Order {
    pub fn read(line: &str) -> Result<Order, Problem> {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let (sku, quantity, price) = match fields[..] {
            [sku, quantity, price] => (sku, quantity, price),
            _ => return Err(Problem::Fields(fields.len())),
        };
        if sku.is_empty() || !sku.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            return Err(Problem::Sku);
        }
        let quantity = quantity.parse().ok().filter(|count| (1..=10_000).contains(count)).ok_or(Problem::Quantity)?;
        let cents = cents_of(price).ok_or(Problem::Price)?;
        Ok(Order { sku: sku.to_string(), quantity, cents })
    }

    pub fn total_cents(&self) -> u64 {
        u64::from(self.quantity) * self.cents
    }

    /// A SKU has nothing that JSON would escape.
    pub fn json(&self) -> String {
        let Order { sku, quantity, cents } = self;
        let total = self.total_cents();
        format!("{{\"sku\": \"{sku}\", \"quantity\": {quantity}, \"cents\": {cents}, \"total_cents\": {total}}}")
    }
}
