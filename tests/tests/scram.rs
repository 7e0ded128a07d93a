//! Clients that insist on SCRAM, with channel binding, towards the agent.

use interdict_tests::world::world;

#[test]
fn clients_that_insist_on_scram_prove_the_placeholder() {
    let Some(w) = world("clients_that_insist_on_scram", "") else {
        return;
    };
    let config = w.agent.state().with_file_name("interdict.toml");
    let text = std::fs::read_to_string(&config).expect("read");
    let text = text.replace(
        "user = \"owner\"\n",
        "user = \"owner\"\nplaceholder = \"not the real one\"\n",
    );
    std::fs::write(&config, text).expect("written");
    let ask = |password: &str, binding: &str, tls: &str| {
        let (password, binding) = (
            format!("PGPASSWORD={password}"),
            format!("PGCHANNELBINDING={binding}"),
        );
        let tls = format!("PGSSLMODE={tls}");
        let sql = [
            "psql",
            "-X",
            "-At",
            "-c",
            "SELECT email FROM customers WHERE id = 1",
        ];
        let command = [&["env", &password, &binding, &tls][..], &sql].concat();
        w.agent.run(Some(&w.alice), &command).expect("run")
    };
    for (binding, tls) in [
        ("require", "verify-full"),
        ("prefer", "require"),
        ("disable", "verify-full"),
        ("disable", "disable"),
    ] {
        let seen = ask("not the real one", binding, tls);
        assert_eq!(seen.out.trim(), "a***@e***.com", "{binding} {tls}: {}", seen.err);
    }
    for password in [interdict_tests::postgres::PASSWORD, "wrong"] {
        let seen = ask(password, "require", "verify-full");
        assert_eq!(seen.status, 2, "{}", seen.out);
        assert!(
            seen.err.contains("placeholder") && !seen.err.contains("not the real"),
            "{}",
            seen.err
        );
    }
    let records = w.agent.records().expect("records");
    let refused = records.iter().filter(|r| r["refusal"] == "identity").count();
    assert_eq!(refused, 2, "{records:#?}");
}
