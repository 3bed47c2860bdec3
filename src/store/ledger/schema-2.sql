-- From the tables of version 1 to those of version 2.

ALTER TABLE request ADD COLUMN tokens INTEGER NOT NULL DEFAULT 0; -- of all attempts and classes, as budgets count them

ALTER TABLE request ADD COLUMN serial INTEGER; -- its number in the run

UPDATE request SET tokens = coalesce(
    (SELECT sum(input_tokens + cached_input_tokens + cache_write_tokens + input_audio_tokens + output_tokens
            + reasoning_tokens + output_audio_tokens)
     FROM attempt WHERE attempt.request = request.id), 0);

CREATE INDEX request_key ON request (key);

ALTER TABLE team ADD COLUMN limits TEXT NOT NULL DEFAULT '[]'; -- JSON

ALTER TABLE api_key ADD COLUMN limits TEXT NOT NULL DEFAULT '[]'; -- JSON
