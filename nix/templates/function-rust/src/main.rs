//! hello: turns the body around, line by line; `?upper=1` makes it upper case as well.
//!
//! It is run once per request, from the same memory each time.  Besides requests and answers the
//! crate has keys and values, queues, streams, other functions and spans: see `cargo doc --open`.

use blixard::{log, Level, Request, Response};

fn turn(mut request: Request) -> std::io::Result<Response> {
    let is_upper = request.parameter("upper").as_deref() == Some("1");
    let mut out = String::new();
    let text = request.text()?;
    for line in text.lines() {
        let turned: String = line.chars().rev().collect();
        out += &if is_upper { turned.to_uppercase() } else { turned };
        out.push('\n');
    }

    // See it with: blixard fn logs hello
    log(Level::Info, "turned", &[("lines", &text.lines().count().to_string())]);
    Ok(Response::text(out))
}

fn main() {
    blixard::serve(turn)
}
