//! As much of HTTP/1.1 as the API needs: one request per connection.

use std::io::{Read, Write};
use std::net::TcpStream;

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// Behind `/v1`, with its query.
    pub path: String,
    pub authorization: String,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// The head of a request, up to its empty line, and what was read beyond it.
pub fn read_head(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Some((String::from_utf8(bytes).unwrap(), rest));
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

pub fn read_request(stream: &mut TcpStream) -> Option<Asked> {
    let (head, mut body) = read_head(stream)?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?);
    let header = |name: &str| {
        let named = head.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let length: usize = header("content-length").parse().unwrap_or(0);
    let missing = length.saturating_sub(body.len());
    let mut rest = vec![0; missing];
    stream.read_exact(&mut rest).ok()?;
    body.extend(rest);
    Some(Asked {
        method,
        path: path.strip_prefix("/v1").unwrap_or(path).to_owned(),
        authorization: header("authorization"),
        content_type: header("content-type"),
        body,
    })
}

pub fn answer(stream: &mut TcpStream, status: u16, headers: &[(&str, String)], body: &[u8]) {
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n",
        body.len()
    );
    // A client that has given up is no fault.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// Half of an answer.
pub fn cut(stream: &mut TcpStream, status: u16, body: &[u8]) {
    let head = format!("HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..body.len() / 2]));
}
