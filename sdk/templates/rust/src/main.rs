//! @NAME@: turns the body around, line by line; `?upper=1` makes it upper case as well.
//!
//! A command: it is run once per request, from the same memory each time.  The body is standard
//! input, what the request says besides is in the environment (CGI, RFC 3875), the answer is
//! standard output: header lines, an empty line, the body.

use std::env;
use std::io::{self, BufRead, Write};

fn main() -> io::Result<()> {
    let query = env::var("QUERY_STRING").unwrap_or_default();
    let upper = query.split('&').any(|pair| pair == "upper=1");

    let mut out = io::stdout().lock();
    write!(out, "Content-Type: text/plain; charset=utf-8\n\n")?;

    let mut lines = 0;
    for line in io::stdin().lock().lines() {
        let turned: String = line?.chars().rev().collect();
        writeln!(out, "{}", if upper { turned.to_uppercase() } else { turned })?;
        lines += 1;
    }

    eprintln!("turned {lines} lines"); // see: blixard fn logs @NAME@
    out.flush()
}
