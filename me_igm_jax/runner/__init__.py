"""The host: it compiles the traced program, drives it, and keeps what comes out. Nothing here is traced."""
