//! What test/integration/sdk_test.py asks of every SDK, by path.

use blixard::{errno, fetch_reason, kv, log, queue, stream, Call, Fact, Fetch, Level, Message, Request, Response, Span};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::time::Duration;

fn request(mut request: Request) -> io::Result<Response> {
    let body = request.text()?;
    let mut out = String::new();
    let _ = writeln!(out, "{} {} {}", request.method(), request.path(), request.query());
    let _ = writeln!(
        out,
        "{:?} {:?}",
        request.parameter("name").unwrap_or_default(),
        request.parameter("none").is_none()
    );
    let _ = writeln!(
        out,
        "{:?} {:?}",
        request.header("x-one").unwrap_or_default(),
        request.header("X-None").is_none()
    );
    let _ = writeln!(out, "{}", body.len());
    Ok(Response::text(out).status(201).header("X-Answer", "yes"))
}

fn facts() -> io::Result<Response> {
    let mut out = String::new();
    for fact in [Fact::Project, Fact::Function, Fact::Version, Fact::RequestId] {
        let _ = writeln!(out, "{}", blixard::metadata(fact)?);
    }
    let _ = writeln!(out, "{}", blixard::metadata(Fact::Traceparent)?.len());
    let left = blixard::deadline();
    let _ = writeln!(out, "{}", left > Duration::ZERO && left <= Duration::from_secs(30));
    Ok(Response::text(out))
}

fn keys() -> io::Result<Response> {
    let mut out = String::new();
    let _ = writeln!(out, "none {}", kv::get("k/none")?.is_none());
    let first = kv::set("k/one", "one")?;
    let entry = kv::get("k/one")?;
    let _ = writeln!(
        out,
        "get {}",
        entry.map_or(false, |entry| entry.text() == "one" && entry.revision == first)
    );
    let _ = writeln!(
        out,
        "lost {}",
        kv::compare_and_set("k/one", "two", None, None)?.is_none()
    );
    let _ = writeln!(
        out,
        "won {}",
        kv::compare_and_set("k/one", "two", Some(first), None)?.is_some()
    );
    for _ in 0..2 {
        let count = kv::update("k/two", |old| [old.unwrap_or_default(), b"x"].concat())?;
        let _ = writeln!(out, "update {}", String::from_utf8_lossy(&count));
    }
    kv::set_for("k/three", vec![b'y'; 100_000], Duration::from_secs(60))?;
    let _ = writeln!(out, "long {}", kv::get("k/three")?.map_or(0, |entry| entry.value.len()));
    let _ = writeln!(out, "list {}", kv::list("k/", "", 0)?.join(" "));
    let _ = writeln!(out, "after {}", kv::list("k/", "k/one", 1)?.join(" "));
    let _ = writeln!(out, "stale {}", kv::compare_and_delete("k/one", first)?);
    let _ = writeln!(out, "delete {} {}", kv::delete("k/one")?, kv::delete("k/one")?);
    Ok(Response::text(out))
}

fn send() -> io::Result<Response> {
    let mut out = String::new();
    let message = Message::json("{\"a\":1}").attribute("kind", "a \"b\"").priority(3);
    let _ = writeln!(out, "message {}", !queue::send("jobs", &message)?.is_empty());
    let position = stream::append("events", &Message::new("record").key("ada").attribute("kind", "c"))?;
    let _ = writeln!(out, "record {}", position.sequence);
    match queue::send("nowhere", &message) {
        Ok(_) => out.push_str("sent\n"),
        Err(error) => {
            let _ = writeln!(
                out,
                "nowhere {} {}",
                errno(&error),
                error.kind() == io::ErrorKind::NotFound
            );
        }
    }
    Ok(Response::text(out))
}

fn call() -> io::Result<Response> {
    let answer = Call::new("other")
        .method("PUT")
        .path("/request?name=a%20b")
        .header("X-One", "1")
        .body("hello")
        .send()?;
    let mut out = format!(
        "{} {}\n{}",
        answer.status,
        answer.header("x-answer").unwrap_or(""),
        answer.text()
    );
    if let Err(error) = Call::new("nobody").timeout(Duration::from_secs(5)).send() {
        let _ = writeln!(out, "nobody {}", errno(&error));
    }
    Ok(Response::text(out))
}

fn elsewhere(base: &str) -> io::Result<Response> {
    let got = Fetch::get(&format!("{base}/plain?a=b")).send()?;
    let mut out = format!("{} {} {}\n", got.status, got.header("x-one").unwrap_or(""), got.text());
    let pending = Fetch::post(&format!("{base}/plain"), "hello").header("X-Mine", "mine").begin()?;
    let mut large = Fetch::get(&format!("{base}/big?n=3000000")).timeout(Duration::from_secs(20)).open()?;
    let there = pending.wait(Duration::from_secs(20))?;
    let posted = pending.take()?;
    let _ = writeln!(out, "{} {}", if there { posted.status } else { 0 }, posted.text());
    let mut body = Vec::new();
    large.read_to_end(&mut body)?;
    let _ = writeln!(out, "{}", body.len());
    if Fetch::get(&format!("{base}/big?n=3000000")).send()?.body != body {
        let _ = writeln!(out, "another body");
    }
    if let Err(error) = Fetch::get("http://example.com/").send() {
        let _ = writeln!(out, "{}", fetch_reason(&error));
    }
    Ok(Response::text(out))
}

fn spans() -> io::Result<Response> {
    let outer = Span::begin("outer")?;
    let inner = Span::begin("inner")?;
    inner.attribute("why", "a test")?;
    inner.fail("on purpose");
    drop(outer);
    Ok(Response::text("done\n"))
}

fn secrets() -> io::Result<Response> {
    let token = blixard::secret("sdk-token")?;
    let other = blixard::secret("sdk-other").map_or_else(|error| errno(&error), |_| 0);
    Ok(Response::text(format!("{} {other}\n", String::from_utf8_lossy(&token))))
}

fn pieces(mut request: Request) -> Response {
    Response::stream("text/plain", move |out| {
        out.write_all(b"first\n")?;
        out.flush()?; // the client has it before it has sent the rest
        let mut bytes = [0; 4096];
        let mut count = 0;
        loop {
            let got = request.read(&mut bytes)?;
            if got == 0 {
                return writeln!(out, "{count}");
            }
            count += got;
        }
    })
}

fn answer(asked: Request) -> io::Result<Response> {
    match asked.path().as_str() {
        "/request" => request(asked),
        "/facts" => facts(),
        "/kv" => keys(),
        "/send" => send(),
        "/call" => call(),
        "/fetch" => elsewhere(&asked.query()),
        "/span" => spans(),
        "/secret" => secrets(),
        "/pieces" => Ok(pieces(asked)),
        "/log" => {
            log(Level::Warning, "careful", &[("who", "me"), ("what", "a \"word\"")]);
            Ok(Response::status_only(204))
        }
        "/fail" => Err(io::Error::new(io::ErrorKind::Other, "a reason")),
        "/header" => Ok(Response::text("x").header("X-Bad", "a\nb")),
        _ => Ok(Response::status_only(404)),
    }
}

fn main() {
    blixard::serve(answer)
}
