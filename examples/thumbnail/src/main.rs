//! A function that makes thumbnails: POST a PNG, get a smaller PNG.
//!
//! `?width=N` sets the width (default 160, at most the image's own); the height follows.  A command: the
//! body is standard input, the query an environment variable, the answer standard output with CGI
//! header lines before it.

mod deflate;
mod png;
mod scale;

use std::env;
use std::io::{self, Read, Write};

const WIDTH_DEFAULT: usize = 160;
const BODY_BYTES_MAX: u64 = 32 << 20;

fn wanted_width() -> Result<usize, String> {
    let query = env::var("QUERY_STRING").unwrap_or_default();
    for pair in query.split('&') {
        if let Some(value) = pair.strip_prefix("width=") {
            return match value.parse::<usize>() {
                Ok(width) if width > 0 => Ok(width),
                _ => Err(format!("width \"{}\" is not a positive number", value)),
            };
        }
    }
    Ok(WIDTH_DEFAULT)
}

fn thumbnail() -> Result<Vec<u8>, String> {
    let width = wanted_width()?;
    let mut body = Vec::new();
    io::stdin()
        .take(BODY_BYTES_MAX)
        .read_to_end(&mut body)
        .map_err(|problem| problem.to_string())?;
    let image = png::decode(&body)?;
    let small = scale::to_width(&image, width.min(image.width));
    eprintln!("{}x{} to {}x{}", image.width, image.height, small.width, small.height);
    Ok(png::encode(&small))
}

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    match thumbnail() {
        Ok(bytes) => {
            out.write_all(b"Content-Type: image/png\n\n")?;
            out.write_all(&bytes)
        }
        Err(problem) => {
            eprintln!("<4>{}", problem);
            write!(out, "Status: 400 Bad Request\nContent-Type: text/plain\n\n{}\n", problem)
        }
    }
}
