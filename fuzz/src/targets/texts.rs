//! What is done with any kind of tokenizer.

use easyedit::Tokenizer;

const TEXTS: [&str; 6] = [
    "",
    "The Eiffel Tower is in Paris",
    "w1 The author of Green aaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
    "Zürich 東京 🙂\n\t e\u{301}  ok ▁<0x41>",
    "<s><|endoftext|> x</s>",
    " \u{0}\u{fffd}",
];

/// Encodes a few texts in every way, and decodes what comes of them, and other ids; whether a text could be encoded.
pub(super) fn encode_and_decode(tokenizer: &Tokenizer) -> bool {
    let mut encoded = false;
    for text in TEXTS {
        if let Ok(encoding) = tokenizer.encode(text) {
            let _ = tokenizer.decode(&encoding.ids);
            encoded = true;
        }
        let _ = tokenizer.encode_whole(text);
        let _ = tokenizer.encode_bare(text);
    }
    let _ = (tokenizer.vocab_size(), tokenizer.id_bound());
    let _ = tokenizer.decode(&[0, 1, 2, 255, 256, u32::MAX]);
    encoded
}
