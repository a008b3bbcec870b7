//! An API on the loopback that speaks OpenAI's protocol, with faults on demand.
//!
//! It reads the multipart upload and every line of the training file, moves jobs from state to state as they are asked about, answers
//! conversations from a table, and refuses whatever the real one refuses. It keeps what it was asked.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod echo;
mod http;
pub mod proxy;
mod world;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use self::http::{Asked, answer, cut, read_request};
pub use self::world::World;

/// The key that the API takes. No output may hold it.
pub const KEY: &str = "sk-test-4711-do-not-show-me";

/// What goes wrong with a request instead of an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An error, with more headers.
    Status(u16, &'static str, Vec<(&'static str, String)>),
    /// The answer comes after this time.
    Slow(Duration),
    /// Half of the answer, then the connection is cut. What was asked for is done.
    CutBody,
    /// No answer, the connection is cut. What was asked for is done.
    CutAfter,
    /// The connection is cut before anything is done.
    CutBefore,
    /// A success with this body.
    Body(&'static str),
}

/// A fault of the first `left` requests to a path that begins so.
struct Planned {
    method: &'static str,
    path: &'static str,
    left: usize,
    fault: Fault,
}

#[derive(Default)]
struct Shared {
    world: World,
    planned: Vec<Planned>,
    asked: Vec<Asked>,
}

/// The API; it ends with the value.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// An API that knows the model `gpt-3.5-turbo` and answers prompts by `answers`.
    pub fn start(answers: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared { world: World::new(answers), ..Shared::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (inner, stopped) = (shared.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let inner = inner.clone();
                std::thread::spawn(move || serve(stream.unwrap(), &inner));
            }
        });
        Self { address, shared, stop, thread: Some(thread) }
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What the API knows.
    pub fn world(&self) -> Guard<'_> {
        Guard(self.shared.lock().unwrap())
    }

    /// The next `times` requests with this method and beginning of a path fail so.
    pub fn plan(&self, method: &'static str, path: &'static str, times: usize, fault: Fault) {
        self.shared.lock().unwrap().planned.push(Planned { method, path, left: times, fault });
    }

    /// How often it was asked this.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.shared.lock().unwrap().asked.iter().filter(|asked| asked.method == method && asked.path.starts_with(path)).count()
    }

    /// The JSON bodies of what it was asked.
    pub fn bodies(&self, method: &str, path: &str) -> Vec<serde_json::Value> {
        let shared = self.shared.lock().unwrap();
        let asked = shared.asked.iter().filter(|asked| asked.method == method && asked.path == path);
        asked.map(|asked| serde_json::from_slice(&asked.body).unwrap()).collect()
    }
}

/// The world, as long as nobody asks for it.
pub struct Guard<'a>(MutexGuard<'a, Shared>);

impl std::ops::Deref for Guard<'_> {
    type Target = World;
    fn deref(&self) -> &World {
        &self.0.world
    }
}

impl std::ops::DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.0.world
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, shared: &Mutex<Shared>) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let Some(asked) = read_request(&mut stream) else { return };
    let fault = {
        let mut shared = shared.lock().unwrap();
        shared.asked.push(asked.clone());
        let found = shared.planned.iter_mut().find(|p| p.left > 0 && p.method == asked.method && asked.path.starts_with(p.path));
        found.map(|planned| {
            planned.left -= 1;
            planned.fault.clone()
        })
    };
    let act = || shared.lock().unwrap().world.act(&asked);
    match fault {
        None => {
            let (status, mut body) = act();
            let echo = shared.lock().unwrap().world.echo;
            let headers = if echo.is_some() { echo::headers() } else { Vec::new() };
            if let Some(echo) = echo {
                echo::repeat(echo, &mut body);
            }
            answer(&mut stream, status, &headers, body.to_string().as_bytes());
        }
        Some(Fault::Status(status, body, headers)) => answer(&mut stream, status, &headers, body.as_bytes()),
        Some(Fault::Slow(time)) => {
            std::thread::sleep(time);
            let (status, body) = act();
            answer(&mut stream, status, &[], body.to_string().as_bytes());
        }
        Some(Fault::CutBody) => {
            let (status, body) = act();
            cut(&mut stream, status, body.to_string().as_bytes());
        }
        Some(Fault::CutAfter) => {
            act();
        }
        Some(Fault::CutBefore) => {}
        Some(Fault::Body(body)) => answer(&mut stream, 200, &[], body.as_bytes()),
    }
}
