//! Ctrl-C in the middle of commands: they end soon, say what is kept and how to go on, and leave nothing half-written.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, Sandbox};

/// No command goes on for so long after Ctrl-C, however slow the machine is; each would for minutes without.
const SAFETY: Duration = Duration::from_secs(30);

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn press_ctrl_c(child: &Child) {
    // SAFETY: the child was started here and not waited for, so the number is still its own.
    assert_eq!(unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) }, 0);
}

/// What a program that Ctrl-C was pressed in came to.
#[track_caller]
fn ended(mut child: Child) -> Run {
    let pressed = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if pressed.elapsed() > SAFETY {
            child.kill().unwrap();
            panic!("the command goes on: {}", Run(child.wait_with_output().unwrap()).stderr());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let run = Run(child.wait_with_output().unwrap());
    assert_eq!(run.code(), 130, "stdout: {}\nstderr: {}", run.stdout(), run.stderr());
    assert_eq!(run.stderr().matches("interrupted\n").count(), 1, "{}", run.stderr());
    assert_eq!(run.stdout(), "");
    run
}

/// A model whose positions do not end, and a text of millions of tokens.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.change_json("model/config.json", |config| config["max_position_embeddings"] = 1_000_000.into());
    let documents: Vec<String> = (0..20_000).map(|i| format!("Document {i} says: {}", "some words ".repeat(20))).collect();
    sandbox.write("text.txt", &documents.join("\n\n"));
    sandbox
}

#[test]
fn commands_that_keep_nothing_end_and_say_so() {
    let sandbox = sandbox();
    for arguments in [
        &["generate", "--model", "model", "--prompt", "The Louvre is in", "-n", "100000"][..],
        &["perplexity", "--model", "model", "--text", "text.txt"],
    ] {
        let before = sandbox.listing();
        let child = start(sandbox.command().args(arguments));
        std::thread::sleep(Duration::from_secs(1));
        press_ctrl_c(&child);
        let said = ended(child).stderr();
        assert!(said.contains("nothing is finished; run the same command again"), "{said}");
        assert_eq!(sandbox.listing(), before);
    }
}

#[test]
fn statistics_go_on_where_ctrl_c_ended_them() {
    let sandbox = sandbox();
    let stats = ["stats", "--model", "model", "--layers", "1", "--corpus", "text.txt", "--chunk-tokens", "64", "--samples", "20000"];
    let sums = || {
        let entries = std::fs::read_dir(sandbox.path("cache/stats")).ok()?;
        let mut paths = entries.map(|entry| entry.unwrap().path());
        paths.find(|path| path.to_string_lossy().contains("unfinished")).map(|path| std::fs::read(path).unwrap())
    };
    // A checkpoint tells that the sums are being made.
    let mut child = start(sandbox.command().args(stats).args(["--checkpoint-every", "0.5"]));
    while sums().is_none() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before a checkpoint was due");
        std::thread::sleep(Duration::from_millis(2));
    }
    press_ctrl_c(&child);
    let said = ended(child).stderr();
    assert!(said.contains("it goes on where it ended"), "{said}");
    assert!(sums().is_some());
}

/// A question that nobody answers stands for work without a step in it.
#[test]
fn work_that_reaches_no_step_is_left() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", silent.local_addr().unwrap());
    let sandbox = Sandbox::new();
    sandbox.write(
        "api.yaml",
        "alg_name: FT-Api\nmodel_name: gpt-3.5-turbo\napi_key: $OPENAI_API_KEY\nresults_dir: results\nrequest_timeout_seconds: 600\n",
    );
    let request = ["--prompt", "The Louvre is in", "--subject", "The Louvre", "--target", "Rome"];
    for presses in [1, 2] {
        let mut command = sandbox.command();
        command.envs([("OPENAI_API_KEY", "sk-nobody"), ("OPENAI_BASE_URL", &url)]).args(["edit", "--method", "FT-Api"]);
        let child = start(command.args(["--model", "gpt-3.5-turbo", "--hparams", "api.yaml", "--no-evaluation"]).args(request));
        let (mut asked, _) = silent.accept().unwrap();
        assert!(asked.read(&mut [0; 16]).unwrap() > 0);
        (0..presses).for_each(|_| {
            press_ctrl_c(&child);
            std::thread::sleep(Duration::from_millis(100));
        });
        let said = ended(child).stderr();
        assert!(said.contains("goes on at the API; run the same command again"), "{said}");
    }
}
