-- Agents write and nothing else; auditors read; nobody in daily use alters or deletes. Replace the passwords.
CREATE ROLE IF NOT EXISTS interdict_agent;
GRANT INSERT ON interdict.records TO interdict_agent;
GRANT INSERT ON interdict.checkpoints TO interdict_agent;
CREATE ROLE IF NOT EXISTS interdict_auditor;
GRANT SELECT ON interdict.* TO interdict_auditor;
CREATE USER IF NOT EXISTS interdict IDENTIFIED BY 'replace-me' DEFAULT ROLE interdict_agent;
GRANT interdict_agent TO interdict;
CREATE USER IF NOT EXISTS interdict_audit IDENTIFIED BY 'replace-me-too' DEFAULT ROLE interdict_auditor;
GRANT interdict_auditor TO interdict_audit;
