//! Orders: POST a CSV file, and each line that is an order goes to a queue as JSON.

mod order;

use blixard::{log, queue, Level, Message, Request, Response, Span};
use order::Order;
use std::env;
use std::io::{self, BufRead, BufReader};

#[derive(Default)]
struct Summary {
    sent: usize,
    total_cents: u64,
    refused: Vec<String>, // as JSON
}

impl Summary {
    fn json(&self) -> String {
        let refused = self.refused.join(", ");
        format!("{{\"sent\": {}, \"total_cents\": {}, \"refused\": [{refused}]}}\n", self.sent, self.total_cents)
    }
}

fn send(queue: &str, order: &Order) -> io::Result<()> {
    let message = Message::json(order.json()).attribute("sku", &order.sku);
    queue::send(queue, &message).map(|_| ())
}

fn take(request: Request) -> io::Result<Response> {
    if request.method() != "POST" {
        return Ok(Response::text("POST a file of SKU,QUANTITY,PRICE\n").status(405).header("Allow", "POST"));
    }
    let queue = env::var("QUEUE").unwrap_or_else(|_| "orders".to_string());
    let span = Span::begin("orders")?;
    let mut summary = Summary::default();
    for (index, line) in BufReader::new(request).lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() || (index == 0 && line.starts_with("sku,")) {
            continue;
        }
        match Order::read(&line) {
            Ok(order) => {
                send(&queue, &order)?;
                summary.sent += 1;
                summary.total_cents += order.total_cents();
            }
            Err(problem) => {
                summary.refused.push(format!("{{\"line\": {}, \"problem\": \"{problem}\"}}", index + 1));
            }
        }
    }
    span.attribute("sent", &summary.sent.to_string())?;
    let refused = summary.refused.len().to_string();
    log(Level::Info, "took a file", &[("sent", &summary.sent.to_string()), ("refused", &refused)]);
    Ok(Response::json(summary.json()).status(if summary.refused.is_empty() { 200 } else { 422 }))
}

fn main() {
    blixard::serve(take)
}
