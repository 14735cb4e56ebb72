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
    ), rule AS MATERIALIZED (
        SELECT DISTINCT s.root, s.oid AS view, r.oid, r.ev_action::text ~ ':varattno 0 ' AS whole
        FROM step AS s JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = s.oid::oid AND r.rulename = '_RETURN'
    ), below(above, oid) AS (
        SELECT DISTINCT s.oid, s.oid FROM step AS s
        UNION
        SELECT b.above, i.inhrelid::int8 FROM below AS b JOIN pg_catalog.pg_inherits AS i ON i.inhparent = b.oid::oid
    )
    SELECT s.root, n.nspname::text, c.relname::text, c.relkind::text, NULL::text
    FROM step AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.oid::oid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE s.oid <> s.root AND c.relkind IN ('r', 'p', 'f')
    UNION
    SELECT r.root, n.nspname::text, c.relname::text, c.relkind::text, a.attname::text
    FROM rule AS r
    JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
         AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> r.view::oid
    JOIN pg_catalog.pg_attribute AS u ON u.attrelid = d.refobjid AND u.attnum > 0
         AND (u.attnum = d.refobjsubid OR r.whole)
    JOIN below AS b ON b.above = d.refobjid::int8
    JOIN pg_catalog.pg_class AS c ON c.oid = b.oid::oid AND c.relkind IN ('r', 'p', 'f')
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = u.attname AND a.attnum > 0
"""
"""What views and parents lead to. Dependencies lack the built-in catalogues, so tables are taken from the rules.

Nor do they tell of whole rows, which rules write as column 0. A column of a parent is its children's as well.
"""

CHILDREN: Final = """
    WITH RECURSIVE below(above, oid) AS (
        SELECT o, o FROM pg_catalog.unnest($1::int8[]) AS o
        UNION
        SELECT b.above, i.inhrelid::int8 FROM below AS b JOIN pg_catalog.pg_inherits AS i ON i.inhparent = b.oid::oid
    )
    SELECT b.above, n.nspname::text, c.relname::text
    FROM below AS b JOIN pg_catalog.pg_class AS c ON c.oid = b.oid::oid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE b.oid <> b.above
"""
"""The tables whose rows are those of others as well: partitions, and tables that inherit."""

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
