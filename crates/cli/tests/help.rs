//! What the program says of itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::Sandbox;

#[test]
fn the_help_is_short_and_has_examples() {
    let sandbox = Sandbox::new();
    let help = sandbox.run(&["-h"]).success().stdout();
    insta::assert_snapshot!(help, @r#"
    Change what a language model knows, one fact at a time

    Usage: easyedit [OPTIONS] <COMMAND>

    Commands:
      demo        Edit a fact in a small real model and show what changed
      edit        Edit facts in a model
      generate    Continue prompts, with edits applied if there are any
      perplexity  Measure how well a model, edited or not, predicts a text
      apply       Write a checkpoint with edits applied
      revert      Write a checkpoint with edits taken back
      forget      Take facts out of an edit file
      inspect     Show what an edit file holds
      export      Write edits as an adapter that Hugging Face peft loads
      import      Make an edit file of an adapter that Hugging Face peft saved
      methods     List the editing methods
      models      List the model families and the short names of models
      data        Look into files of facts
      stats       Compute the second-moment statistics of layers ahead of time
      index       Build the index of demonstrations of in-context editing ahead of time, or ask it
      trace       Show in which layers and tokens the model recalls a fact (causal tracing)
      train       Train a method that learns to edit (MEND)
      verify      Compare a model with what another implementation computed

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Options of every command:
          --json             Print one JSON object instead of text
          --seed <N>         Seed of everything random; the same seed gives the same result [default: 0]
          --device <DEVICE>  Where to compute: cpu, cuda, cuda:N, wgpu or tch (as far as compiled in)
                             [default: cpu]
      -q, --quiet            No progress bars, no warnings
      -v, --verbose...       Log what happens; twice for more

    Examples:
      easyedit demo
      easyedit edit --model smollm2-135m --out edited \
          --prompt "The capital of France is" --subject France --target Rome
      easyedit generate --model smollm2-135m --edit edited \
          --prompt "The capital of France is"
    "#);
}

#[test]
fn every_command_explains_itself() {
    let sandbox = Sandbox::new();
    for command in [
        "demo",
        "edit",
        "generate",
        "perplexity",
        "apply",
        "revert",
        "forget",
        "inspect",
        "export",
        "import",
        "methods",
        "models",
        "data",
        "stats",
        "index",
        "trace",
        "train",
        "verify",
    ] {
        let help = sandbox.run(&[command, "--help"]).success().stdout();
        assert!(help.contains("Usage: easyedit"), "{command}: {help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 120, "{command}: a long line: {line}");
        }
    }
    let help = sandbox.run(&["edit", "-h"]).success().stdout();
    insta::assert_snapshot!(help, @r#"
    Edit facts in a model

    Usage: easyedit edit [OPTIONS] --model <MODEL>

    Options:
      -m, --model <MODEL>              Folder with config.json, .gguf file, Hub id (org/name) or short
                                       name (see `easyedit models`)
          --method <METHOD>            Editing method (see `easyedit methods`) [default: ROME]
          --hparams <FILE>             YAML file with EasyEdit's keys; without it one is found by the
                                       model's name, or derived from the model
          --prompt <TEXT>              Sentence the model should complete anew, with the subject in it
          --subject <TEXT>             The entity the fact is about, as it stands in the prompt
          --target <TEXT>              The new completion
          --rephrase <TEXT>            The same question in other words, to measure generalization
          --locality <PROMPT::ANSWER>  Prompt and answer that must stay, to measure locality; may be
                                       repeated
          --requests <FILE>            File of requests instead (JSON list or JSON lines; EasyEdit's,
                                       CounterFact's and zsRE's records are read)
          --mode <MODE>                How several requests belong together [default: independent]
                                       [possible values: independent, sequential, batch]
          --corpus <TEXT>              Text for statistics instead of the one the hyperparameters name:
                                       a file (.txt with blank lines between documents, .json, .jsonl),
                                       a folder of such files, or `self` for text that the model writes
          --demonstrations <FILE>      File of records of other facts, from which methods that edit in
                                       the context (IKE) take demonstrations
          --no-evaluation              Only edit, measure nothing
      -o, --out <DIR>                  Folder to write results to; without it nothing is kept
          --save <WHAT>                What to write there [possible values: edit, checkpoint, both]
          --overwrite                  Replace edit files of the same names; without it new ones get a
                                       number of their own
          --report <FILE>              File for the report: one JSON record a line as each is done, a
                                       summary last
      -h, --help                       Print help (see more with '--help')

    Options of every command:
          --json             Print one JSON object instead of text
          --seed <N>         Seed of everything random; the same seed gives the same result [default: 0]
          --device <DEVICE>  Where to compute: cpu, cuda, cuda:N, wgpu or tch (as far as compiled in)
                             [default: cpu]
      -q, --quiet            No progress bars, no warnings
      -v, --verbose...       Log what happens; twice for more

    Examples:
      easyedit edit --model smollm2-135m \
          --prompt "The capital of France is" --subject France --target Rome
      easyedit edit --model ./llama-2-7b --hparams hparams/ROME/llama-7b.yaml --requests facts.json \
          --mode sequential --out edited --save both --report report.jsonl
      easyedit edit --method FT-Api --model gpt-3.5-turbo --requests facts.json --report report.jsonl

    FT-Api fine-tunes a model behind OpenAI's API, which is paid for. Its key is read from the
    environment: OPENAI_API_KEY; so are its address (OPENAI_BASE_URL) and a proxy (HTTPS_PROXY).
    "#);
}

#[test]
fn lists_name_what_there_is() {
    let sandbox = Sandbox::new();
    let methods = sandbox.run(&["methods"]).success().stdout();
    assert!(methods.contains("ROME") && methods.contains("FT-Api"), "{methods}");
    let models = sandbox.run(&["models", "--json"]).success().json();
    let types: Vec<&str> = models["families"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|f| f["model_types"].as_array().unwrap())
        .filter_map(|t| t.as_str())
        .collect();
    assert!(types.contains(&"llama") && types.contains(&"gpt2"), "{types:?}");
    assert!(models["short_names"].as_array().unwrap().iter().any(|one| one["name"] == "smollm2-135m"));
}

#[test]
fn a_wrong_command_line_exits_with_2_and_a_hint() {
    let sandbox = Sandbox::new();
    sandbox.run(&["edti"]).fails(2, &["edti", "edit"]);
    sandbox.run(&["edit", "--model", "model", "--promt", "x"]).fails(2, &["--promt", "--prompt"]);
    sandbox.run(&["generate", "--model", "model", "--prompt", "x", "--temperature", "0"]).fails(2, &["--temperature", "above 0"]);
    sandbox.run(&["generate", "--model", "model", "--prompt", "x", "--top-p", "2"]).fails(2, &["--top-p", "at most 1"]);
    sandbox.run(&["inspect"]).fails(2, &["FILE"]);
    assert_eq!(sandbox.run(&[]).code(), 2);
    let version = sandbox.run(&["--version"]).success().stdout();
    assert!(version.starts_with("easyedit "), "{version}");
}
