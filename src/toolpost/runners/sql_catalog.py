"""The questions that the SQL tools ask PostgreSQL about its tables, columns, keys and what views read."""

from __future__ import annotations

from typing import Final

HOMES: Final = """
    SELECT array(SELECT s::text FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) AS s
                 WHERE s NOT LIKE 'pg\\_%' AND s <> 'information_schema')
"""
"""The schemas in which a name without one is looked up."""

_RELATION: Final = """
    SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, c.relhassubclass,
           array(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

NAMED: Final = _RELATION + " AND c.relname = ANY($1::text[]) AND n.nspname = ANY($2::text[])"
"""The relations of some names in some schemas."""

LISTED: Final = (
    _RELATION
    + """
    AND ($1::text IS NULL OR n.nspname = $1) AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
    ORDER BY n.nspname, c.relname LIMIT 10000
"""
)
"""The relations of one schema or all, that the role may read something of."""

READS: Final = """
    WITH RECURSIVE step(root, oid) AS (
        SELECT o, o FROM pg_catalog.unnest($1::int8[]) AS o
        UNION
        SELECT s.root, e.target FROM step AS s JOIN (
            SELECT i.inhparent::int8 AS source, i.inhrelid::int8 AS target FROM pg_catalog.pg_inherits AS i
            UNION
            SELECT r.ev_class::int8, m[1]::int8
            FROM pg_catalog.pg_rewrite AS r
            JOIN pg_catalog.pg_class AS v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm'),
                 pg_catalog.regexp_matches(r.ev_action::text, ':relid (\\d+)', 'g') AS m
            WHERE r.rulename = '_RETURN' AND m[1]::int8 <> r.ev_class::int8
        ) AS e ON e.source = s.oid
    )
    SELECT s.root, n.nspname::text, c.relname::text, c.relkind::text, NULL::text
    FROM step AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.oid::oid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE s.oid <> s.root AND c.relkind IN ('r', 'p', 'f')
    UNION
    SELECT s.root, n.nspname::text, c.relname::text, c.relkind::text, a.attname::text
    FROM step AS s
    JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = s.oid::oid AND r.rulename = '_RETURN'
    JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
         AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> s.oid::oid
    JOIN pg_catalog.pg_class AS c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p', 'f')
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND a.attnum > 0
"""
"""What views and parents lead to. Dependencies lack the built-in catalogues, so tables are taken from the rules."""

COLUMNS: Final = """
    SELECT n.nspname::text, c.relname::text, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
           NOT a.attnotnull,
           EXISTS (SELECT 1 FROM pg_catalog.pg_index AS i
                   WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY(i.indkey))
    FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS t(s, r)
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.s
    JOIN pg_catalog.pg_class AS c ON c.relname = t.r AND c.relnamespace = n.oid
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')
    ORDER BY n.nspname, c.relname, a.attnum
"""

_OF: Final = """
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2
"""

INDEXES: Final = (
    """
    SELECT x.relname::text,
           CASE WHEN 0 = ANY(i.indkey) THEN NULL ELSE
               array(SELECT a.attname::text FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k(attnum, at)
                     JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.attnum ORDER BY k.at)
           END, i.indisunique, i.indisprimary
    FROM pg_catalog.pg_index AS i
    JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
    JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
"""
    + _OF
    + " AND i.indpred IS NULL ORDER BY x.relname"
)

FOREIGN_KEYS: Final = (
    """
    SELECT array(SELECT a.attname::text FROM pg_catalog.unnest(f.conkey) WITH ORDINALITY AS k(attnum, at)
                 JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.attnum ORDER BY k.at),
           m.nspname::text, o.relname::text,
           array(SELECT a.attname::text FROM pg_catalog.unnest(f.confkey) WITH ORDINALITY AS k(attnum, at)
                 JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.confrelid AND a.attnum = k.attnum ORDER BY k.at)
    FROM pg_catalog.pg_constraint AS f
    JOIN pg_catalog.pg_class AS o ON o.oid = f.confrelid
    JOIN pg_catalog.pg_namespace AS m ON m.oid = o.relnamespace
    JOIN pg_catalog.pg_class AS c ON c.oid = f.conrelid
"""
    + _OF
    + " AND f.contype = 'f' ORDER BY f.conname"
)

ROWS: Final = "SELECT c.reltuples::float8 FROM pg_catalog.pg_class AS c" + _OF
"""About how many rows there are, as far as the server has counted."""
