{# The aliases of an exchange as a list of [asset, canonical asset].
   They become constants of the view: a lookup per block of trades would cost more, and would find
   the seed empty while `dbt seed` loads it again. #}
{% macro asset_aliases(exchange) %}
    {%- set seed = ref('asset_aliases') %}
    {%- if not execute %}{{ return([]) }}{% endif %}
    {%- if load_relation(seed) is none %}
        {%- if flags.WHICH not in ['run', 'build'] %}{{ return([]) }}{% endif %}
        {{ exceptions.raise_compiler_error(
            'The asset aliases are not loaded: run dbt seed first, or dbt build, which does both.') }}
    {%- endif %}
    {%- set rows = run_query(
        "select asset, canonical_asset from " ~ seed
        ~ " where exchange = '" ~ exchange ~ "' order by asset") %}
    {%- set aliases = [] %}
    {%- for row in rows %}{% do aliases.append([row[0], row[1]]) %}{% endfor %}
    {{ return(aliases) }}
{% endmacro %}


{% macro canonical_asset(asset, aliases) -%}
    {%- if not aliases -%}
        {{ asset }}
    {%- else -%}
        transform(
            {{ asset }},
            {{ string_array(aliases | map(attribute=0) | list) }},
            {{ string_array(aliases | map(attribute=1) | list) }},
            {{ asset }}
        )
    {%- endif -%}
{%- endmacro %}


{# BASE/QUOTE, the same for all exchanges.
   slashed (BTC/USD): base and quote are what stands before and after the slash.
   joined (BTCUSDT): the quote is the longest known quote asset that the symbol ends with.
   A symbol that the rule cannot split stays as it is. #}
{% macro canonical_symbol(symbol, symbol_rule, aliases) -%}
    {%- if symbol_rule == 'slashed' -%}
        {%- set base = "splitByChar('/', " ~ symbol ~ ")[1]" -%}
        {%- set quote = "splitByChar('/', " ~ symbol ~ ")[2]" -%}
        {%- set splits = "match(" ~ symbol ~ ", '^[^/]+/[^/]+$')" -%}
    {%- elif symbol_rule == 'joined' -%}
        {%- set quote = joined_quote(symbol) -%}
        {%- set base = "substring(" ~ symbol ~ ", 1, length(" ~ symbol ~ ") - length(" ~ quote ~ "))" -%}
        {%- set splits = "notEmpty(" ~ quote ~ ")" -%}
    {%- else -%}
        {{ exceptions.raise_compiler_error("unknown symbol rule '" ~ symbol_rule ~ "': joined or slashed") }}
    {%- endif -%}
    if(
        {{ splits }},
        concat({{ canonical_asset(base, aliases) }}, '/', {{ canonical_asset(quote, aliases) }}),
        {{ symbol }}
    )
{%- endmacro %}


{# The known quote asset that ends a joined symbol, empty where there is none. #}
{% macro joined_quote(symbol) -%}
    extract({{ symbol }}, '^.+?({{ quote_assets_longest_first() | join("|") }})$')
{%- endmacro %}


{% macro quote_assets_longest_first() %}
    {%- set by_length = [] %}
    {%- for asset in var('quote_assets') %}{% do by_length.append([-(asset | length), asset]) %}{% endfor %}
    {{ return(by_length | sort | map(attribute=1) | list) }}
{% endmacro %}


{% macro string_array(values) -%}
    [{% for value in values %}'{{ value | replace("\\", "\\\\") | replace("'", "\\'") }}'{{ ", " if not loop.last }}{% endfor %}]
{%- endmacro %}
