// Embed the cells of a file: a copy of it with the vectors in obsm, and the vectors alone.
// In the layout of nf-core's modules. Nextflow itself has not run this: a test of cellscribe runs
// its script and its stub with bash, see docs/atlas.md.
process CELLSCRIBE_EMBED {
    tag "${meta.id}"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    container "registry.example.org/cellscribe:0.1.0"

    input:
    tuple val(meta), path(h5ad)
    path model

    output:
    tuple val(meta), path("${prefix}.h5ad")     , emit: h5ad
    tuple val(meta), path("X_${prefix}.parquet"), emit: obsm
    path "versions.yml"                         , emit: versions, topic: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    def key = task.ext.key_added ?: 'X_cellscribe'
    def model_arg = model ? "--model ${model}" : ''
    if ("${h5ad}" == "${prefix}.h5ad") error "Input and output names are the same, use \"task.ext.prefix\" to disambiguate!"
    """
    export NUMBA_CACHE_DIR="\$PWD/.numba"

    cellscribe embed ${h5ad} \\
        --out ${prefix}.h5ad \\
        --key-added ${key} \\
        --threads ${task.cpus} \\
        ${model_arg} \\
        ${args}

    python3 - <<'END_PYTHON'
    import anndata
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = anndata.read_h5ad("${prefix}.h5ad", backed="r")
    vectors = cells.obsm["${key}"]
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"cell_id": list(cells.obs_names), "embedding": embedding}), "X_${prefix}.parquet")
    END_PYTHON

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        cellscribe: \$(cellscribe --version)
        python: \$(python3 -c 'import platform; print(platform.python_version())')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    if ("${h5ad}" == "${prefix}.h5ad") error "Input and output names are the same, use \"task.ext.prefix\" to disambiguate!"
    """
    touch ${prefix}.h5ad
    touch X_${prefix}.parquet

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        cellscribe: \$(cellscribe --version)
        python: \$(python3 -c 'import platform; print(platform.python_version())')
    END_VERSIONS
    """
}
