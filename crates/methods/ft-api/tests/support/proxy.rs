//! A proxy on the loopback: tunnels to whatever it is asked for, and keeps what that was.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::http::read_head;

/// A request's first line and its `Proxy-Authorization`.
type Asked = (String, Option<String>);

pub struct Proxy {
    pub address: String,
    /// What it was asked for.
    pub asked: Arc<Mutex<Vec<Asked>>>,
}

impl Proxy {
    /// A proxy that lives as long as the test's process.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let log = log.clone();
                std::thread::spawn(move || tunnel(stream.unwrap(), &log));
            }
        });
        Self { address, asked }
    }
}

fn tunnel(mut client: TcpStream, log: &Mutex<Vec<(String, Option<String>)>>) -> Option<()> {
    let (head, rest) = read_head(&mut client)?;
    let first = head.lines().next()?.to_owned();
    let credentials = head.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: ").map(str::to_owned));
    log.lock().unwrap().push((first.clone(), credentials));
    let target = first.strip_prefix("CONNECT ")?.split(' ').next()?;
    let mut server = TcpStream::connect(target).ok()?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
    server.write_all(&rest).ok()?;
    let (mut from_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(std::net::Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(std::net::Shutdown::Both);
    Some(())
}
