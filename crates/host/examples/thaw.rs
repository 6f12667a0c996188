//! The thaw guard as a program, for the tests of `freeze`: the daemon's binary has the same hidden
//! subcommand. `hold PATH` plays the daemon that is killed while PATH is frozen.

use std::path::PathBuf;
use std::time::Duration;

use stowage_host::freeze::{Guard, SUBCOMMAND, guard_main};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [SUBCOMMAND, seconds, "--", ref paths @ ..] => {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            guard_main(Duration::from_secs_f64(seconds.parse()?), &paths, &[])?;
        }
        ["hold", path] => {
            let path = PathBuf::from(path);
            let bound = Duration::from_secs(30);
            let exe = std::env::current_exe()?;
            let _guard = Guard::freeze(&exe, std::slice::from_ref(&path), &[], bound)?;
            println!("frozen");
            std::thread::sleep(Duration::from_secs(60));
        }
        _ => return Err(format!("usage: thaw {SUBCOMMAND} SECONDS -- PATH... | hold PATH").into()),
    }
    Ok(())
}
