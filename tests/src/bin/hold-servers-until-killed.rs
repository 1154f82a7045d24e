//! Holds one server of each kind until it is killed, so that a test can see what then becomes of them.

use std::{io, thread};

use tests::{PostgresServer, RedisServer};

fn main() -> io::Result<()> {
    let redis = RedisServer::start();
    let postgres = PostgresServer::start();
    println!("{} {}", redis.pid(), redis.folder().display());
    println!("{} {}", postgres.pid(), postgres.folder().display());
    println!("ready");
    loop {
        thread::park();
    }
}
