-- From the tables of version 5 to those of version 6.

ALTER TABLE team ADD COLUMN cache TEXT; -- off, deterministic, always, on-request; NULL: as where a call goes

ALTER TABLE api_key ADD COLUMN cache TEXT; -- as of a team; NULL: as its team
