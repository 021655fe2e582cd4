// What a dashboard file may say, in the types that Grafana publishes.
//
// Used as they are, those types are too strict and too loose at once: a string enum takes no string, so that no JSON
// fits; and the options of a panel may be anything. So enums are taken for their values here, and each kind of panel has
// the options of its own plugin. Options may be left out: Grafana fills them in, and older versions have fewer.
import type { AnnotationQuery, Dashboard, FieldConfig, FieldConfigSource, Panel, RowPanel } from '@grafana/schema';
import type { Options as BarGaugeOptions } from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type { Options as GaugeOptions } from '@grafana/schema/dist/esm/raw/composable/gauge/panelcfg/x/GaugePanelCfg_types.gen';
import type { FieldConfig as HeatmapField, Options as HeatmapOptions } from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type { Options as StatOptions } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { FieldConfig as StatesField, Options as StatesOptions } from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type { FieldConfig as TableField, Options as TableOptions } from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type { FieldConfig as LinesField, Options as LinesOptions } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

type Plain<T> = T extends string
  ? `${T}`
  : T extends object
    ? { [K in keyof T]: Plain<T[K]> }
    : T;

interface Source {
  type: 'prometheus';
  uid: string;
}

interface Target {
  refId: string;
  datasource: Source;
  editorMode: 'code';
  expr: string;
  legendFormat: string;
  format: 'time_series' | 'table' | 'heatmap';
  instant: boolean;
  range: boolean;
}

interface Field<Custom> {
  defaults: Omit<Plain<FieldConfig>, 'custom'> & { custom?: Partial<Plain<Custom>> };
  overrides: Plain<FieldConfigSource['overrides']>;
}

interface Drawn<Type extends string, Options, Custom>
  extends Omit<Plain<Panel>, 'type' | 'options' | 'fieldConfig' | 'targets' | 'datasource'> {
  type: Type;
  datasource: Source;
  targets: Target[];
  options: Partial<Plain<Options>>;
  fieldConfig: Field<Custom>;
}

interface Row extends Omit<Plain<RowPanel>, 'type' | 'panels'> {
  type: 'row';
  panels: never[];
}

type AnyPanel =
  | Drawn<'timeseries', LinesOptions, LinesField>
  | Drawn<'stat', StatOptions, never>
  | Drawn<'gauge', GaugeOptions, never>
  | Drawn<'bargauge', BarGaugeOptions, never>
  | Drawn<'table', TableOptions, TableField>
  | Drawn<'heatmap', HeatmapOptions, HeatmapField>
  | Drawn<'state-timeline', StatesOptions, StatesField>
  | Row;

// What Grafana's data source for Prometheus knows beside the common fields.
interface PrometheusAnnotation extends Omit<Plain<AnnotationQuery>, 'target' | 'datasource'> {
  datasource: Source;
  target: { refId: string; expr: string; interval: string };
  expr: string;
  step: string;
  titleFormat: string;
  textFormat: string;
  tagKeys: string;
  useValueForTime: boolean;
}

export interface Written extends Omit<Plain<Dashboard>, 'panels' | 'annotations'> {
  panels: AnyPanel[];
  annotations: { list: PrometheusAnnotation[] };
}
