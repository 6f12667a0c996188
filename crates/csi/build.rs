//! Compiles the vendored proto without protoc: protox parses it, tonic-prost-build writes Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/csi.proto");
    let files = protox::compile(["proto/csi.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Sorted maps are what `stowage_model::params` reads.
        .btree_map(".")
        // rustdoc would take the spec's indented examples for doc tests.
        .disable_comments(["."])
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .build_transport(false)
        .compile_fds(files)?;
    Ok(())
}
