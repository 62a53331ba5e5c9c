// Embed the files of a samplesheet: nextflow run recipes/nextflow --input samples.csv --outdir results
// samples.csv has the columns sample,h5ad. Nextflow itself has not run this; what was: docs/atlas.md.
include { CELLSCRIBE_EMBED } from './modules/local/cellscribe/embed/main'

workflow {
    samples = Channel
        .fromPath(params.input, checkIfExists: true)
        .splitCsv(header: true)
        .map { row -> [ [ id: row.sample ], file(row.h5ad, checkIfExists: true) ] }
    model = params.model ? file(params.model, type: 'dir', checkIfExists: true) : []

    CELLSCRIBE_EMBED(samples, model)
}
