//! `include/flashmla.h` is what `src/capi` says, to the byte.

use std::path::Path;

/// Only these: constants of other modules are nobody's business.
const SOURCES: [&str; 10] = [
    "src/status.rs",
    "src/capi/types.rs",
    "src/capi/version.rs",
    "src/capi/context.rs",
    "src/capi/dense_decode.rs",
    "src/capi/sparse_decode.rs",
    "src/capi/kv_cache_append.rs",
    "src/capi/kv_cache_gather.rs",
    "src/capi/map_indices.rs",
    "src/capi/sparse_prefill.rs",
];

fn generate(root: &Path) -> String {
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root.join(source));
    }
    let mut text = Vec::new();
    builder.generate().expect("cbindgen").write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn header_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("include/flashmla.h");
    let generated = generate(root);
    if std::env::var_os("FLASHMLA_UPDATE_HEADER").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == generated, "include/flashmla.h is not what src/capi says: run `make header`");
}

/// cbindgen drops what it does not understand, silently.
#[test]
fn nothing_is_missing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let header = generate(root);
    for entry in std::fs::read_dir(root.join("src/capi")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let public = text.contains("extern \"C\" fn flashmla_") || text.contains("pub const FLASHMLA_");
        if public {
            assert!(SOURCES.iter().any(|s| s.ends_with(name)), "{name} has public items and is not in SOURCES");
        }
        for (marker, end) in [("extern \"C\" fn ", '('), ("pub struct ", ' '), ("pub const ", ':')] {
            for piece in text.split(marker).skip(1) {
                let item = piece.split(end).next().unwrap();
                if item.starts_with("flashmla_") || item.starts_with("FLASHMLA_") {
                    assert!(header.contains(item), "{item} of {name} is not in the header");
                }
            }
        }
    }
}
