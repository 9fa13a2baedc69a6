"""The `qlora` command. Each command calls one function of the package and shows its result; no logic lives here."""
